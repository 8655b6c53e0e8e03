#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

/// y = a + b, all of one shape.
void add(Device& device, const Tensor& a, const Tensor& b, const Tensor& y);

/// y = factor · (a + b), all of one shape.
void add_scaled(Device& device, const Tensor& a, const Tensor& b, float factor, const Tensor& y);

/// y = factor · x, all of one shape.
void scale(Device& device, const Tensor& x, float factor, const Tensor& y);

/// y += x, both of one shape.
void accumulate(Device& device, const Tensor& x, const Tensor& y);

/// y = [a, b] joined along columns.   a [T, A], b [T, B], y [T, A + B]
void concat_columns(Device& device, const Tensor& a, const Tensor& b, const Tensor& y);

/// The gradient of `concat_columns`; an empty da or db is left out.
void split_columns(Device& device, const Tensor& dy, const Tensor& da, const Tensor& db);

/// y = gelu(gate) · up with the tanh approximation of GELU.
///
///   gate, y  [T, N]
///   up       [T, M]: columns up_begin … up_begin + N - 1 are used (Gemma's per-layer inputs are packed side by side)
///
/// Source: Gemma4TextMLP (gelu_pytorch_tanh) and the per-layer input gate of Gemma4TextDecoderLayer.
void gated_gelu_forward(Device& device, const Tensor& gate, const Tensor& up, std::int64_t up_begin, const Tensor& y);

/// dgate [T, N] is written; into dup [T, M] the used columns are added. Either may be empty and is then left out.
void gated_gelu_backward(Device& device, const Tensor& dy, const Tensor& gate, const Tensor& up, std::int64_t up_begin,
                         const Tensor& dgate, const Tensor& dup);

}  // namespace mtp::ops
