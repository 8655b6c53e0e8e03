#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

// Products of a layer without bias: T rows, `in` and `out` features. Every tensor but dw is fp32 or bf16; products are
// added in fp32, and what is written in bf16 is rounded once. The bits do not depend on the number of threads.

/// y = x wᵀ.   x [T, in], w [out, in], y [T, out]
void linear_forward(Device& device, const Tensor& x, const Tensor& w, const Tensor& y);

/// dx = dy w.   dy [T, out], w [out, in], dx [T, in]
void linear_backward_input(Device& device, const Tensor& dy, const Tensor& w, const Tensor& dx);

/// dw += dyᵀ x.   dy [T, out], x [T, in], dw [out, in] fp32
void linear_backward_weight(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dw);

}  // namespace mtp::ops
