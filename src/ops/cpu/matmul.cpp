#include "mtp/ops/matmul.h"

#include "gemm.h"

namespace mtp::ops::cpu {

void linear_forward(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  const std::int64_t rows = x.size(0), in = x.size(1), out = w.size(0);
  MTP_ASSERT(w.size(1) == in && y.size(0) == rows && y.size(1) == out);
  cpu::parallel_gemm(device, 'n', 't', rows, out, in, 1, x.f32(), in, w.f32(), in, 0, y.f32(), out);
}

void linear_backward_input(Device& device, const Tensor& dy, const Tensor& w, const Tensor& dx) {
  const std::int64_t rows = dy.size(0), out = dy.size(1), in = w.size(1);
  MTP_ASSERT(w.size(0) == out && dx.size(0) == rows && dx.size(1) == in);
  cpu::parallel_gemm(device, 'n', 'n', rows, in, out, 1, dy.f32(), out, w.f32(), in, 0, dx.f32(), in);
}

void linear_backward_weight(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dw) {
  const std::int64_t rows = dy.size(0), out = dy.size(1), in = x.size(1);
  MTP_ASSERT(x.size(0) == rows && dw.size(0) == out && dw.size(1) == in);
  cpu::parallel_gemm(device, 't', 'n', out, in, rows, 1, dy.f32(), out, x.f32(), in, 1, dw.f32(), in);
}

}  // namespace mtp::ops::cpu
