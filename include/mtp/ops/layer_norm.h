#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

// What a layer norm and a linear layer with bias need besides ops/norm.h and ops/matmul.h.

struct LayerNorm {
  float eps = 1e-5f;
};

/// y = (x - mean) · (variance + eps)^-½ · w + b over the last dimension, with the biased variance, computed in fp32.
///
///   x, y        [rows…, width]  fp32 or bf16, all of one type with weight and bias
///   weight      [width]
///   bias        [width], or empty for none
///   statistics  [rows, 2] fp32   out: mean and (variance + eps)^-½, kept for the backward
///
/// Source: torch.nn.LayerNorm of Gemma4UnifiedVisionEmbedder, Hugging Face modeling_gemma4_unified.py.
void layer_norm_forward(Device& device, const LayerNorm& norm, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& y, const Tensor& statistics);

/// dx of the above, of x's type, written; dweight [width] fp32 is added to unless it is empty. The bias's gradient is
/// that of `add_bias`.
void layer_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& statistics, const Tensor& dx, const Tensor& dweight);

/// y = x + bias in every row, rounded once.   x, y [T, W], bias [W], all fp32 or all bf16
void add_bias(Device& device, const Tensor& x, const Tensor& bias, const Tensor& y);

/// dbias += Σ_t dy[t].   dy [T, W] fp32 or bf16, dbias [W] fp32
void add_bias_backward(Device& device, const Tensor& dy, const Tensor& dbias);

}  // namespace mtp::ops
