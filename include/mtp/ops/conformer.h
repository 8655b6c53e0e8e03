#pragma once

#include <cstdint>

#include "mtp/ops/sequences.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

// What an audio tower computes besides a text model's operations. Tensors of one call are all fp32 or all bf16 unless
// it says otherwise; what is computed within is fp32. Sequences are clips of sound.
// Source of all: Gemma4AudioModel, Hugging Face modeling_gemma4.py.

enum class Activation { relu, silu };

/// y = max(x, 0), or x · sigmoid(x), both of one shape.
void activation_forward(Device& device, Activation activation, const Tensor& x, const Tensor& y);

/// dx of the above, written; that of relu is 0 at 0.
void activation_backward(Device& device, Activation activation, const Tensor& dy, const Tensor& x, const Tensor& dx);

/// y = the first half of x's columns · sigmoid(the second half).   x [T, 2 · W], y [T, W]
void gated_sigmoid_forward(Device& device, const Tensor& x, const Tensor& y);

/// dx of the above, written.
void gated_sigmoid_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dx);

/// Clips as grids of time steps and frequencies with channels: row (begin(b) + t) · frequencies + f of a tensor holds
/// the channels at time t of clip b and frequency f.
struct SoundGrid {
  Sequences clips;  // time steps
  std::int64_t frequencies;

  std::int64_t rows() const { return clips.rows() * frequencies; }
};

/// What a convolution of 3 × 3 with a stride of 2 multiplies with its weights: y's row (t, f) of the grid `out` is the
/// channels of x at times 2t - 1 … 2t + 1 and frequencies 2f - 1 … 2f + 1, zero where there are none; element
/// c · 9 + i · 3 + j is channel c at 2t - 1 + i and 2f - 1 + j. Times and frequencies of `out` are half of those of
/// `in`, rounded up.
///   x [in.rows(), C], y [out.rows(), 9 · C]
void neighbours_forward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& x, const Tensor& y);

/// dx of the above, written.
void neighbours_backward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& dy, const Tensor& dx);

/// Of each channel by itself: y[t] = Σ_m w[m] · x[t - K + 1 + m], zero before the clip begins.
///   x, y [T, W], w [W, 1, K]
void causal_convolution_forward(Device& device, const Sequences& clips, const Tensor& x, const Tensor& w,
                                const Tensor& y);

/// dx of the above, written.
void causal_convolution_backward_input(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& w,
                                       const Tensor& dx);

/// dw of the above, fp32, is added to.
void causal_convolution_backward_weight(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& x,
                                        const Tensor& dw);

/// y = factor · softplus(s) · x in every row, x and y fp32.   x, y [T…, d], s [d] fp32 or bf16
void scale_by_softplus_forward(Device& device, float factor, const Tensor& x, const Tensor& s, const Tensor& y);

/// dx of the above, written; ds [d] fp32 is added to unless it is empty.
void scale_by_softplus_backward(Device& device, float factor, const Tensor& dy, const Tensor& x, const Tensor& s,
                                const Tensor& dx, const Tensor& ds);

/// Attention to the last `span` rows, that of the query among them, within a clip, by content and distance:
///
///   a[t, δ] = cap · tanh((q[t] · k[t - δ] + q[t] · r[δ]) / cap)     0 ≤ δ < span, δ ≤ t
///   out[t] = Σ_δ softmax(a[t])_δ · v[t - δ]
///
///   q, k, v, out [T, heads, d], r [span, heads, d], all fp32
///   scores       [T, heads, span] fp32   out: a, kept for the backward
struct LocalAttention {
  std::int64_t span;
  float cap;
};
struct LocalAttentionInputs {
  Tensor q, k, v, r;
};
void local_attention_forward(Device& device, const LocalAttention& attention, const Sequences& clips,
                             const LocalAttentionInputs& in, const Tensor& out, const Tensor& scores);

/// Gradients of the above, written.
void local_attention_backward(Device& device, const LocalAttention& attention, const Sequences& clips,
                              const Tensor& dout, const LocalAttentionInputs& in, const Tensor& scores,
                              const LocalAttentionInputs& gradients);

}  // namespace mtp::ops
