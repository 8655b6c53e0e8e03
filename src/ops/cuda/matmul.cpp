#include "mtp/ops/matmul.h"

#include "product.h"

namespace mtp::ops::cuda {

void linear_forward(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  multiply(device, {x}, {w, transposed}, 0, y);
}

void linear_backward_input(Device& device, const Tensor& dy, const Tensor& w, const Tensor& dx) {
  multiply(device, {dy}, {w}, 0, dx);
}

void linear_backward_weight(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dw) {
  multiply(device, {dy, transposed}, {x}, 1, dw);
}

}  // namespace mtp::ops::cuda
