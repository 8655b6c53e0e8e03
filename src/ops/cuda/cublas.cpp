#include "cublas.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>

#include "../../tensor/cuda/context.h"
#include "mtp/ops/libraries.h"

namespace mtp::ops::cuda {

namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error("cuBLAS: {}: {} ({})", what, cublasLtGetStatusString(status), cublasLtGetStatusName(status));
}

/// cuBLAS's descriptions, each destroyed with its object.
template <typename Description, cublasStatus_t (*destroy)(Description)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (value_ != nullptr) destroy(value_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  operator Description() const { return value_; }
  Description* address() { return &value_; }

 private:
  Description value_ = nullptr;
};

cudaDataType_t type_of(const Tensor& tensor) {
  MTP_ASSERT(tensor.dtype() == DType::f32 || tensor.dtype() == DType::bf16);
  return tensor.dtype() == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

/// Of the address, as far as it matters.
std::uint32_t alignment_of(const Tensor& tensor) {
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data<void>());
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(address & -address, 256));
}

/// All that the choice of an algorithm depends on: a shape always gets the same one.
using Key = std::array<std::int64_t, 11>;

/// The handle of a device, and the algorithms chosen so far.
struct Products {
  Products() { check(cublasLtCreate(&handle), "a handle"); }
  ~Products() { cublasLtDestroy(handle); }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  cublasLtHandle_t handle = nullptr;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
};

Products& products_of(CudaContext& context) {
  if (context.products() == nullptr) context.products() = std::make_shared<Products>();
  return *static_cast<Products*>(context.products().get());
}

using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

/// cuBLAS counts along columns: to it, a row-major matrix is its transpose.
void describe(Layout& layout, const Tensor& matrix) {
  const auto rows = static_cast<std::uint64_t>(matrix.size(0)), columns = static_cast<std::uint64_t>(matrix.size(1));
  check(cublasLtMatrixLayoutCreate(layout.address(), type_of(matrix), columns, rows, matrix.size(1)), "a layout");
}

template <typename T>
void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value), "a product's description");
}

template <typename T>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "a preference");
}

/// The first choice of cuBLAS's heuristic among the algorithms that add up every element in one go: a sum that is split
/// over blocks might be put together in another order next time.
cublasLtMatmulAlgo_t choose(cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const Tensor& first,
                            cublasLtMatrixLayout_t first_layout, const Tensor& second,
                            cublasLtMatrixLayout_t second_layout, const Tensor& c, cublasLtMatrixLayout_t c_layout) {
  Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
  check(cublasLtMatmulPreferenceCreate(preference.address()), "a preference");
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(first));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(second));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(c));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(c));
  std::array<cublasLtMatmulHeuristicResult_t, 16> results;
  int found = 0;
  check(cublasLtMatmulAlgoGetHeuristic(handle, product, first_layout, second_layout, c_layout, c_layout, preference,
                                       static_cast<int>(results.size()), results.data(), &found),
        "the choice of an algorithm");
  for (int i = 0; i < found; ++i) {
    std::int32_t parts = 0;
    check(cublasLtMatmulAlgoConfigGetAttribute(&results[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts, sizeof parts,
                                               nullptr),
          "an algorithm's parts");
    if (results[i].state == CUBLAS_STATUS_SUCCESS && parts <= 1) return results[i].algo;
  }
  throw Error("cuBLAS: no algorithm without split sums for c {} of type {}; use another train.compute_dtype",
              to_string(c.shape()), to_string(c.dtype()));
}

}  // namespace

std::string product_library(const Device&) {
  const std::size_t version = cublasLtGetVersion();
  return fmt::format("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

void queue_product(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c,
                   const Tensor& workspace) {
  Products& products = products_of(device.context());

  // Along columns, cᵀ = bᵀ aᵀ: b comes first.
  const Tensor &first = b.stored, &second = a.stored;
  Layout first_layout, second_layout, c_layout;
  describe(first_layout, first);
  describe(second_layout, second);
  describe(c_layout, c);
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> product;
  check(cublasLtMatmulDescCreate(product.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product's description");
  set(product, CUBLASLT_MATMUL_DESC_TRANSA, b.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(product, CUBLASLT_MATMUL_DESC_TRANSB, a.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);

  const Key key{a.rows(),   b.columns(),         a.columns(),          a.is_transposed, b.is_transposed, type_of(first),
                type_of(c), alignment_of(first), alignment_of(second), alignment_of(c), beta != 0};
  auto known = products.algorithms.find(key);
  if (known == products.algorithms.end())
    known =
        products.algorithms
            .insert({key, choose(products.handle, product, first, first_layout, second, second_layout, c, c_layout)})
            .first;

  const float alpha = 1;
  check(cublasLtMatmul(products.handle, product, &alpha, first.data<void>(), first_layout, second.data<void>(),
                       second_layout, &beta, c.data<void>(), c_layout, c.data<void>(), c_layout, &known->second,
                       workspace.data<void>(), workspace_bytes, device.context().stream()),
        "a product");
}

}  // namespace mtp::ops::cuda
