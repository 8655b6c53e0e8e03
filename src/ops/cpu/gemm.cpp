#include "gemm.h"

#include <omp.h>

#include <oneapi/dnnl/dnnl_debug.h>
#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>

#include "element_type.h"
#include "mtp/ops/libraries.h"
#include "parallel.h"

namespace mtp::ops::cpu {

namespace {

// Large enough to run at the full rate, small enough that layers of a few hundred features feed several threads.
constexpr std::int64_t tile_rows = 128;
constexpr std::int64_t tile_columns = 256;

// Operands that are not fp32 are converted part by part. Large parts are converted few times: each part of b once, and
// each of a once for every part of b. Elements of the largest part.
constexpr std::int64_t part_elements = std::int64_t{1} << 21;

/// Some rows of an operand a, or some columns of an operand b, in fp32: where the operand lies, or in a copy.
class Fp32Part {
 public:
  enum class Of { rows, columns };

  Fp32Part(Device& device, const Operand& operand, Of of)
      : device_(device), operand_(operand), is_inner_((of == Of::columns) != operand.is_transposed) {}

  /// How many rows or columns to take at a time.
  std::int64_t largest(std::int64_t n, std::int64_t tile) const {
    if (operand_.stored.dtype() == DType::f32) return n;
    const std::int64_t other = operand_.stored.size(is_inner_ ? 0 : 1);
    return std::max<std::int64_t>(1, part_elements / other / tile) * tile;
  }

  void load(Range part) {
    if (operand_.stored.dtype() == DType::f32) {
      stride_ = operand_.stored.size(1);
      data_ = operand_.stored.f32() + part.begin * (is_inner_ ? 1 : stride_);
    } else if (copied_.begin != part.begin || copied_.end != part.end) {
      copy(part);
    }
  }

  char transpose() const { return operand_.is_transposed ? 't' : 'n'; }
  std::int64_t stride() const { return stride_; }
  /// The i-th row or column of the part.
  const float* at(std::int64_t i) const { return data_ + i * (is_inner_ ? 1 : stride_); }

 private:
  void copy(Range part) {
    const Tensor& x = operand_.stored;
    const std::int64_t width = x.size(1), first = is_inner_ ? 0 : part.begin;
    const std::int64_t rows = is_inner_ ? x.size(0) : part.size(), skipped = is_inner_ ? part.begin : 0;
    stride_ = is_inner_ ? part.size() : width;
    if (memory_.empty() || memory_.elements() < rows * stride_) memory_ = device_.empty({rows, stride_});
    with_type_of(x, [&]<typename T>(T) {
      parallel_pieces(device_, rows, std::max<std::int64_t>(1, 16384 / stride_),
                      [&](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t row = begin; row < end; ++row) {
                          const T* in = elements_of<T>(x) + (first + row) * width + skipped;
                          float* out = memory_.f32() + row * stride_;
#pragma omp simd
                          for (std::int64_t i = 0; i < stride_; ++i) out[i] = in[i];
                        }
                      });
    });
    data_ = memory_.f32();
    copied_ = part;
  }

  Device& device_;
  const Operand& operand_;
  const bool is_inner_;  // consecutive rows or columns of the part are neighbours in memory
  Tensor memory_;
  Range copied_{0, 0};
  const float* data_ = nullptr;
  std::int64_t stride_ = 0;
};

/// The product of one tile of c, whose i-th row begins at c + i · stride.
void tile_product(const Fp32Part& a, Range rows, const Fp32Part& b, Range columns, std::int64_t k, float beta, float* c,
                  std::int64_t stride) {
  gemm(a.transpose(), b.transpose(), rows.size(), columns.size(), k, 1, a.at(rows.begin), a.stride(),
       b.at(columns.begin), b.stride(), beta, c, stride);
}

/// The same rounded into a bf16 matrix.
void rounded_tile_product(const Fp32Part& a, Range rows, const Fp32Part& b, Range columns, std::int64_t k, BFloat16* c,
                          std::int64_t stride) {
  alignas(64) thread_local float tile[tile_rows * tile_columns];
  tile_product(a, rows, b, columns, k, 0, tile, columns.size());
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    const float* in = tile + i * columns.size();
    BFloat16* out = c + i * stride;
#pragma omp simd
    for (std::int64_t j = 0; j < columns.size(); ++j) out[j] = in[j];
  }
}

}  // namespace

void gemm(char transpose_a, char transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  // oneDNN would start OpenMP threads of its own in each of ours.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  const auto status = dnnl_sgemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  MTP_ASSERT(status == dnnl_success);
}

void parallel_gemm(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c) {
  const std::int64_t m = a.rows(), n = b.columns(), k = a.columns();
  Fp32Part a_part(device, a, Fp32Part::Of::rows), b_part(device, b, Fp32Part::Of::columns);
  for_each_part({0, n}, b_part.largest(n, tile_columns), [&](Range columns) {
    b_part.load(columns);
    for_each_part({0, m}, a_part.largest(m, tile_rows), [&](Range rows) {
      a_part.load(rows);
      const std::int64_t across = (columns.size() + tile_columns - 1) / tile_columns;
      const std::int64_t down = (rows.size() + tile_rows - 1) / tile_rows;
      parallel_for(device, down * across, [&](std::int64_t tile) {
        const std::int64_t i = tile / across * tile_rows, j = tile % across * tile_columns;
        const Range tile_i{i, std::min(i + tile_rows, rows.size())},
            tile_j{j, std::min(j + tile_columns, columns.size())};
        const std::int64_t at = (rows.begin + i) * n + columns.begin + j;
        if (c.dtype() == DType::f32)
          tile_product(a_part, tile_i, b_part, tile_j, k, beta, c.f32() + at, n);
        else
          rounded_tile_product(a_part, tile_i, b_part, tile_j, k, elements_of<BFloat16>(c) + at, n);
      });
    });
  });
}

void parallel_gemms(Device& device, const std::vector<Product>& products, float beta) {
  const auto is_fp32 = [](const Product& product) {
    return product.a.stored.dtype() == DType::f32 && product.b.stored.dtype() == DType::f32 &&
           product.c.dtype() == DType::f32;
  };
  if (!std::ranges::all_of(products, is_fp32)) {  // operands are converted with all threads
    for (const auto& [a, b, c] : products) parallel_gemm(device, a, b, beta, c);
    return;
  }
  struct Tile {
    const Product& product;
    Range rows, columns;
  };
  std::vector<Tile> tiles;
  for (const Product& product : products)
    for_each_part({0, product.a.rows()}, tile_rows, [&](Range rows) {
      for_each_part({0, product.b.columns()}, tile_columns, [&](Range columns) {
        tiles.push_back({product, rows, columns});
      });
    });
  parallel_for(device, static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i) {
    const auto& [product, rows, columns] = tiles[i];
    const auto& [a, b, c] = product;
    Fp32Part a_part(device, a, Fp32Part::Of::rows), b_part(device, b, Fp32Part::Of::columns);
    a_part.load({0, a.rows()});
    b_part.load({0, b.columns()});
    const std::int64_t stride = b.columns();
    tile_product(a_part, rows, b_part, columns, a.columns(), beta, c.f32() + rows.begin * stride + columns.begin,
                 stride);
  });
}

std::string product_library(const Device&) {
  const dnnl_version_t& version = *dnnl_version();
  constexpr std::string_view prefix = "cpu_isa_";
  std::string_view instructions = dnnl_cpu_isa2str(dnnl_get_effective_cpu_isa());
  if (instructions.starts_with(prefix)) instructions.remove_prefix(prefix.size());
  return fmt::format("oneDNN {}.{}.{} with {}", version.major, version.minor, version.patch, instructions);
}

}  // namespace mtp::ops::cpu
