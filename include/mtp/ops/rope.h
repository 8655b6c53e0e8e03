#pragma once

#include <vector>

#include "mtp/ops/sequences.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

/// Rotary position embedding of half-rotated pairs (i, i + d/2).
struct Rope {
  std::vector<float> inverse_frequencies;  // [d/2]; zero where a pair is not rotated
  std::int64_t position_offset = 0;        // row t of a sequence has position t + offset, or its own + offset
};

/// y = rotate(x, +angle).   x, y [T, heads, d], both fp32 or both bf16; may be the same memory. As in Hugging Face's
/// models, sine and cosine are rounded to the type of x.
/// Source: apply_rotary_pos_emb, Hugging Face modeling_gemma4.py.
void rope_forward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y);

/// dx = rotate(dy, -angle), the transpose.
void rope_backward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& dy, const Tensor& dx);

/// The same in two dimensions: the first half of a head is turned by the row's x, the second by its y, each as pairs
/// (i, i + d/4) of that half.   rope.inverse_frequencies [d/4], positions [2, T] int64: every row's x, then its y
/// Source: apply_multidimensional_rope, Hugging Face modeling_gemma4.py.
void rope_2d_forward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& x, const Tensor& y);

void rope_2d_backward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& dy, const Tensor& dx);

}  // namespace mtp::ops
