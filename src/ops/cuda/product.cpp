#include "product.h"

#include "cublas.h"
#include "mtp/ops/elementwise.h"

namespace mtp::ops::cuda {

namespace {

Tensor widened(Device& device, const Tensor& matrix) {
  if (matrix.dtype() == DType::f32) return matrix;
  const Tensor wide = device.empty(matrix.shape());
  ops::convert(device, matrix, wide);
  return wide;
}

}  // namespace

void multiply(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c) {
  MTP_ASSERT(a.columns() == b.rows() && c.size(0) == a.rows() && c.size(1) == b.columns());
  if (a.stored.dtype() != b.stored.dtype()) {
    const Tensor wide_a = widened(device, a.stored), wide_b = widened(device, b.stored);
    return multiply(device, {wide_a, a.is_transposed}, {wide_b, b.is_transposed}, beta, c);
  }
  // Free for the stream's next operation as soon as this one is queued.
  const Tensor workspace = device.empty({static_cast<std::int64_t>(workspace_bytes)}, DType::u8);
  if (!device.is_counting()) queue_product(device, a, b, beta, c, workspace);
}

}  // namespace mtp::ops::cuda
