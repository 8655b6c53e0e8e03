#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

struct RmsNorm {
  float eps = 1e-6f;
};

/// y = x · (mean(x²) + eps)^-½ · w over the last dimension, computed in fp32.
///
///   x, y    [rows…, width]  fp32 or bf16, all of one type with the weight
///   weight  [width], or empty for a norm without scale (Gemma's V norm)
///   rrms    [rows] fp32   out: reciprocal root mean square, kept for the backward
///
/// Source: Gemma4RMSNorm, Hugging Face modeling_gemma4.py.
void rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& x, const Tensor& weight, const Tensor& y,
                      const Tensor& rrms);

/// y = residual + x · (mean(x²) + eps)^-½ · w, rounded once. dx and dweight are those of the norm alone; the residual's
/// gradient is dy.   residual of x's shape and type
void add_rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& residual, const Tensor& x,
                          const Tensor& weight, const Tensor& y, const Tensor& rrms);

/// dx of a norm, of x's type; dweight [width] fp32 is added to unless it is empty.
void rms_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms,
                       const Tensor& dx, const Tensor& dweight);

}  // namespace mtp::ops
