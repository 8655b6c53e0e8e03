// In place of cuBLAS: products as their definition says.

#include "../../src/ops/cuda/cublas.h"

#include <algorithm>
#include <vector>

#include "../../src/ops/cuda/elements.cuh"
#include "../../src/tensor/cuda/context.h"
#include "mtp/ops/libraries.h"

namespace mtp::ops::cuda {

namespace {

/// The matrix that is read, row by row.
std::vector<float> values_of(const Operand& matrix) {
  const Elements stored(matrix.stored);
  const std::int64_t rows = matrix.rows(), columns = matrix.columns();
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(rows * columns));
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j)
      values.push_back(stored[matrix.is_transposed ? j * rows + i : i * columns + j]);
  return values;
}

void compute(const Operand& a, const Operand& b, float beta, const Tensor& c) {
  const std::int64_t columns = b.columns(), inner = a.columns();
  const std::vector<float> values_a = values_of(a), values_b = values_of(b);
  const Elements out(c);
  std::vector<float> sums(static_cast<std::size_t>(columns));
  for (std::int64_t i = 0; i < a.rows(); ++i) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (std::int64_t k = 0; k < inner; ++k)
      for (std::int64_t j = 0; j < columns; ++j) sums[j] += values_a[i * inner + k] * values_b[k * columns + j];
    for (std::int64_t j = 0; j < columns; ++j)
      out.set(i * columns + j, beta == 0 ? sums[j] : sums[j] + beta * out[i * columns + j]);
  }
}

/// A reference that does not count: on a GPU, what is queued keeps no memory.
Tensor uncounted(const Tensor& tensor) {
  return {std::shared_ptr<std::byte>(std::shared_ptr<void>(), tensor.data<std::byte>()), tensor.shape(),
          tensor.dtype()};
}

}  // namespace

std::string product_library(const Device&) { return "cuBLASLt " + emulation::property("CUBLASLT", "13.0.2"); }

void queue_product(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c, const Tensor&) {
  const auto later = [stored_a = uncounted(a.stored), stored_b = uncounted(b.stored), a_transposed = a.is_transposed,
                      b_transposed = b.is_transposed, beta, to = uncounted(c)] {
    compute({stored_a, a_transposed}, {stored_b, b_transposed}, beta, to);
    return true;
  };
  emulation::enqueue(device.context().stream(), later);
}

}  // namespace mtp::ops::cuda
