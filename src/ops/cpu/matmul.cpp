#include "mtp/ops/matmul.h"

#include "gemm.h"

namespace mtp::ops::cpu {

void linear_forward(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  cpu::parallel_gemm(device, {x}, {w, transposed}, 0, y);
}

void linear_backward_input(Device& device, const Tensor& dy, const Tensor& w, const Tensor& dx) {
  cpu::parallel_gemm(device, {dy}, {w}, 0, dx);
}

void linear_backward_weight(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dw) {
  cpu::parallel_gemm(device, {dy, transposed}, {x}, 1, dw);
}

}  // namespace mtp::ops::cpu
