#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

// A mixture of experts: every row goes to n of E experts, whose outputs are added with weights of the row's own. No row
// is left out, however many go to one expert. Rows and weights of matrices are fp32 or bf16, all of one type; what
// belongs to the choice is fp32. The bits do not depend on the number of threads.
// Source of all: Gemma4TextRouter and Gemma4TextExperts, Hugging Face modeling_gemma4.py.

/// The experts of T rows.
struct ExpertChoice {
  Tensor experts;  // [T, n] int64: those of each row, ascending
  Tensor shares;   // [T, n] fp32: the softmax over the logits of these
  Tensor weights;  // [T, n] fp32: shares · scale[experts]
};

/// The n experts with the largest logits, of equal ones those with the lower numbers; what is no number counts as least
/// of all.   logits [T, E] fp32, scale [E] fp32 or bf16; choice: written
void choose_experts_forward(Device& device, const Tensor& logits, const Tensor& scale, const ExpertChoice& choice);

/// dlogits is written, zero for experts that were not chosen; dscale is added to, in the order of the rows, unless it
/// is empty.   dweights [T, n] fp32, dlogits [T, E] fp32, dscale [E] fp32
void choose_experts_backward(Device& device, const Tensor& dweights, const ExpertChoice& choice, const Tensor& scale,
                             const Tensor& dlogits, const Tensor& dscale);

/// The P = T · n pairs of a row and an expert that it goes to: expert after expert, those of one in the order of rows.
struct ExpertPairs {
  Tensor rows = {};     // [P] int64: the row of each pair
  Tensor places = {};   // [T, n] int64: where the pair of a row and its k-th expert stands
  Tensor offsets = {};  // [E + 1] int64: expert e has the pairs offsets[e] … offsets[e + 1] - 1
};

/// experts [T, n] int64; pairs: written
void sort_by_expert(Device& device, const Tensor& experts, const ExpertPairs& pairs);

// Products of each expert's pairs with its own matrix, as in ops/matmul.h. An expert without pairs has none.

/// y = x w[e]ᵀ.   x [P, in], w [E, out, in], y [P, out]
void expert_linear_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& w, const Tensor& y);

/// dx = dy w[e].   dy [P, out], w [E, out, in], dx [P, in]
void expert_linear_backward_input(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& w,
                                  const Tensor& dx);

/// dw[e] += dyᵀ x.   dy [P, out], x [P, in], dw [E, out, in] fp32
void expert_linear_backward_weight(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                                   const Tensor& dw);

/// y's row t = Σ_k weights[t, k] · x[places[t, k]], added in fp32 in the order of k, which is that of the experts'
/// numbers, and rounded once. Without weights, the plain sum: the gradient of looking up x's rows by `pairs.rows`.
///   x [P, W], weights [T, n] fp32 or empty, y [T, W]
void add_pairs_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& weights,
                       const Tensor& y);

/// dx and dweights are written; either may be empty and is then left out.   dy [T, W], dx [P, W], dweights [T, n] fp32
void add_pairs_backward(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                        const Tensor& weights, const Tensor& dx, const Tensor& dweights);

}  // namespace mtp::ops
