#include "mtp/ops/matmul.h"

#include "back_ends.h"
#include "mtp/ops/flops.h"

MTP_BACK_ENDS(linear_forward)
MTP_BACK_ENDS(linear_backward_input)
MTP_BACK_ENDS(linear_backward_weight)

namespace mtp::ops {

namespace {

/// Values or gradients of a layer.   x [T, in], w [out, in], y [T, out]
void check(const Tensor& x, const Tensor& w, const Tensor& y) {
  MTP_ASSERT(x.size(1) == w.size(1) && y.size(0) == x.size(0) && y.size(1) == w.size(0));
}

/// The same three numbers for each of the layer's products.
double flops(const Tensor& x, const Tensor& w) { return product_flops(x.size(0), x.size(1), w.size(0)); }

}  // namespace

void linear_forward(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  check(x, w, y);
  MTP_FLOPS(flops(x, w));
  MTP_RUN(linear_forward, x, w, y);
}

void linear_backward_input(Device& device, const Tensor& dy, const Tensor& w, const Tensor& dx) {
  check(dx, w, dy);
  MTP_FLOPS(flops(dx, w));
  MTP_RUN(linear_backward_input, dy, w, dx);
}

void linear_backward_weight(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dw) {
  check(x, dw, dy);
  MTP_ASSERT(dw.dtype() == DType::f32);
  MTP_FLOPS(flops(x, dw));
  MTP_RUN(linear_backward_weight, dy, x, dw);
}

}  // namespace mtp::ops
