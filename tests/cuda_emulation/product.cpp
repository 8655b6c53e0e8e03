// In place of cuBLAS: products as their definition says.

#include "../../src/ops/cuda/product.h"

#include "../../src/ops/cuda/elements.cuh"
#include "mtp/tensor/device.h"

namespace mtp::ops::cuda {

namespace {

/// Element (row, column) of the matrix that is read.
float element(const Operand& matrix, const Elements& stored, std::int64_t row, std::int64_t column) {
  return stored[matrix.is_transposed ? column * matrix.rows() + row : row * matrix.columns() + column];
}

}  // namespace

void multiply(Device&, const Operand& a, const Operand& b, float beta, const Tensor& c) {
  MTP_ASSERT(a.columns() == b.rows() && c.size(0) == a.rows() && c.size(1) == b.columns());
  const Elements stored_a(a.stored), stored_b(b.stored), out(c);
  for (std::int64_t i = 0; i < a.rows(); ++i)
    for (std::int64_t j = 0; j < b.columns(); ++j) {
      float sum = 0;
      for (std::int64_t k = 0; k < a.columns(); ++k) sum += element(a, stored_a, i, k) * element(b, stored_b, k, j);
      const std::int64_t at = i * b.columns() + j;
      out.set(at, beta == 0 ? sum : sum + beta * out[at]);
    }
}

}  // namespace mtp::ops::cuda
