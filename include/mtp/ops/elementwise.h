#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

// What is computed per element is fp32, and rounded to the nearest where it is stored. Tensors of one call are all fp32
// or all bf16, but for `convert`.

/// y = x, both of one shape, either fp32 or bf16.
void convert(Device& device, const Tensor& x, const Tensor& y);

/// y = a + b, all of one shape.
void add(Device& device, const Tensor& a, const Tensor& b, const Tensor& y);

/// y = factor · (a + b), all of one shape.
void add_scaled(Device& device, const Tensor& a, const Tensor& b, float factor, const Tensor& y);

/// y = factor · x, all of one shape.
void scale(Device& device, const Tensor& x, float factor, const Tensor& y);

struct Bounds {
  float least, most;  // infinite for none
};

/// y = x, or the bound that it is beyond, all of one shape.
/// Source: Gemma4ClippableLinear, Hugging Face modeling_gemma4.py.
void clamp_forward(Device& device, const Bounds& bounds, const Tensor& x, const Tensor& y);

/// dx = dy where x is within the bounds or on one, else 0. dx may be the memory of dy.
void clamp_backward(Device& device, const Bounds& bounds, const Tensor& dy, const Tensor& x, const Tensor& dx);

/// y += x, both of one shape.
void accumulate(Device& device, const Tensor& x, const Tensor& y);

/// y = [a, b] joined along columns.   a [T, A], b [T, B], y [T, A + B]
void concat_columns(Device& device, const Tensor& a, const Tensor& b, const Tensor& y);

/// The gradient of `concat_columns`; an empty da or db is left out.
void split_columns(Device& device, const Tensor& dy, const Tensor& da, const Tensor& db);

/// y = x[:, begin … begin + N - 1].   x [T, M], y [T, N]
void copy_columns(Device& device, const Tensor& x, std::int64_t begin, const Tensor& y);

/// dx[:, begin … begin + N - 1] += dy, the gradient of the above.   dy [T, N], dx [T, M]
void add_columns(Device& device, const Tensor& dy, std::int64_t begin, const Tensor& dx);

/// y = gelu(gate) · up with the tanh approximation of GELU, all of one shape.
/// Source: Gemma4TextMLP (gelu_pytorch_tanh) and the per-layer input gate of Gemma4TextDecoderLayer.
void gated_gelu_forward(Device& device, const Tensor& gate, const Tensor& up, const Tensor& y);

/// dgate and dup are written; either may be empty and is then left out.
void gated_gelu_backward(Device& device, const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                         const Tensor& dup);

}  // namespace mtp::ops
