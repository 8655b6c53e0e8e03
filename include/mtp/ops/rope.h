#pragma once

#include <vector>

#include "mtp/ops/sequences.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

/// Rotary position embedding of half-rotated pairs (i, i + d/2).
struct Rope {
  std::vector<float> inverse_frequencies;  // [d/2]; zero where a pair is not rotated
  std::int64_t position_offset = 0;        // row t of a sequence has the position of its first + t + offset
};

/// y = rotate(x, +angle).   x, y [T, heads, d], both fp32 or both bf16; may be the same memory. As in Hugging Face's
/// models, sine and cosine are rounded to the type of x.
/// Source: apply_rotary_pos_emb, Hugging Face modeling_gemma4.py.
void rope_forward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y);

/// dx = rotate(dy, -angle), the transpose.
void rope_backward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& dy, const Tensor& dx);

}  // namespace mtp::ops
