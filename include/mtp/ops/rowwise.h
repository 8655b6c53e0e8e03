#pragma once

#include <vector>

#include "mtp/ops/attention.h"
#include "mtp/ops/cross_entropy.h"
#include "mtp/ops/norm.h"
#include "mtp/ops/rope.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

// What decoding computes with: the next few rows of some texts, whose speed is that of reading all weights once. A
// row's bits depend on this row alone, not on how many are computed together (nor on the number of threads): whatever
// the number of rows, a row's sums run over the same terms in the same order. Products of large matrices, such as those
// of ops/matmul.h, choose that order by size. Tensors are all fp32 or all bf16 where nothing else is said; what is
// computed is fp32. Where rows stand is read in the device's memory; together with tensor/replay.h nothing waits for
// the host.

/// Where each row stands: its position in its text, and that text's number among those whose keys and values are held.
/// A row's place is that of no other.
struct RowPlaces {
  Tensor positions;  // [T] int64
  Tensor texts;      // [T] int64

  std::int64_t rows() const { return positions.elements(); }
};

/// The rows of a product, and what comes before it: norms that a GPU computes within the product's kernel, since one of
/// their own would take longer. Each value is rounded as if every step were an operation.
struct RowwiseInput {
  RowwiseInput(Tensor rows) : x(std::move(rows)) {}

  Tensor x;  // [T, in]
  /// Not empty: x is written first, factor · (residual + norm(branch) · branch_weight).
  Tensor residual, branch;  // [T, in]
  Tensor branch_weight;     // [in]
  float factor = 1;
  /// Not empty: the product is of norm(x) · weight.   [in]
  Tensor weight;
  RmsNorm norm;  // both of them
};

/// y_i = x w_iᵀ of up to three weights. Where x and y_i are fp32, w_i may be bf16.   w_i [out_i, in], y_i [T, out_i]
void rowwise_linear(Device& device, const RowwiseInput& x, const std::vector<Tensor>& w, const std::vector<Tensor>& y);

/// y = gelu(x gateᵀ) · (x upᵀ), see ops/elementwise.h.   gate, up [out, in], y [T, out]
void rowwise_gated_linear(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& up, const Tensor& y);

/// y = gelu(x gateᵀ) · factors.   gate [out, in], factors, y [T, out]
void rowwise_gate(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& factors, const Tensor& y);

/// What the experts of each row give it, see ops/experts.h: Σ_k weights[t, k] · downᵉ (gelu(gateᵉ x) · (upᵉ x)) with
/// e = experts[t, k], added in the order of k.
///   x, y [T, H], experts [T, n] int64, weights [T, n] fp32, gate_up [E, 2 · I, H], gates first, down [E, H, I]
void rowwise_experts(Device& device, const Tensor& x, const Tensor& experts, const Tensor& weights,
                     const Tensor& gate_up, const Tensor& down, const Tensor& y);

/// The index of the largest element of each row of x wᵀ, of equal ones the lowest; `none` where none is a number.
///   x [T, H], w [V, H], choices [T] int64
void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, std::int64_t none, const Tensor& choices);

/// As `masked_choice` of ops/choice.h, of every row.
void rowwise_masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w,
                           const Tensor& choices);

/// Projected rows on their way to attention.
struct Heads {
  Tensor x;         // [T, heads, d]
  Tensor weight;    // [d], or empty for a norm without scale
  bool is_rotated;  // by the rope
  Tensor y;         // as x; or rings [texts, n, heads, d]: position j of a text goes to row j mod n of its ring
  bool is_ring = false;
};

/// y = rope(norm(x) · weight) of up to three tensors.
void rowwise_heads(Device& device, const RmsNorm& norm, const Rope& rope, const RowPlaces& places,
                   const std::vector<Heads>& heads);

/// Puts the first rows of a text, positions 0, 1, …, into its ring; the last n of them, if there are more.
///   rows [T, heads, d], ring [n, heads, d]
void put_in_ring(Device& device, const Tensor& rows, const Tensor& ring);

/// Attention as in ops/attention.h with a causal mask, of each row over its text. Of a text's keys and values the last
/// n at most are needed: those of position j are in row j mod n of its ring.
///   q, out [T, heads, d], k, v [texts, n, kv_heads, d]
void rowwise_attention(Device& device, const AttentionMask& mask, const RowPlaces& places, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out);

}  // namespace mtp::ops
