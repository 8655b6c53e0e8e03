#pragma once

#include "mtp/ops/sequences.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

/// A position without a label.
inline constexpr std::int64_t no_label = -100;

// Output projection fused with cross-entropy: z = cap(x wᵀ), loss = Σ over rows with a label. Logits exist for a chunk
// of rows at a time; a [T, V] tensor is never stored. Since the weight of the loss in the total is known beforehand,
// the gradient is computed along with the loss, while the logits are at hand: `dx` is written and `dw` added to, both
// multiplied by `gradient_scale`; an empty dx or dw is left out. `loss` is the plain sum, not scaled: one fp64 element,
// written. x, w and dx are fp32 or bf16, dw fp32; logits are fp32 and so are their gradients, which a GPU rounds to the
// type of w for its products. Rows without a label cost nothing and get dx = 0. The bits do not depend on the number of
// threads.

struct CrossEntropy {
  float soft_cap = 0;  // z = cap · tanh(z / cap); 0: none
  float gradient_scale = 1;
};

/// Against labels.   x [T, H], w [V, H], labels [T] int64 (label or no_label), loss [] fp64, dx [T, H], dw [V, H]
/// Source: cross_entropy_sum of the reference.
void projected_cross_entropy(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                             const Tensor& labels, const Tensor& loss, const Tensor& dx, const Tensor& dw);

/// How far a row's softmax q is from the teacher's p. Drawn from q, a token is accepted by a server with probability
/// α = Σ min(p, q).
enum class Distance {
  cross_entropy,    // - Σ p log q
  total_variation,  // ½ Σ |p - q| = 1 - α; at p = q its gradient is one-sided
  mixed,            // c · cross-entropy + (1 - c) · total variation with c = exp(-3 α) of the row, as a constant
};

/// Logits of a teacher: teacher_cap(teacher_x teacher_wᵀ), teacher_x [T, H'], teacher_w [V, H'].
struct Teacher {
  Tensor x;
  Tensor w;
  float soft_cap = 0;
  Distance distance = Distance::cross_entropy;  // of the student
};

/// Against the softmax of the teacher's row rows[t], at the rows t for which it is ≥ 0; no gradient into the teacher.
///   teacher_rows [T] int64
/// Source: round_loss_sum of the reference with target "base"; the distances: LK losses, Samarin et al.,
/// arXiv:2602.23881.
void projected_distillation(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                            const Teacher& teacher, const Tensor& teacher_rows, const Tensor& loss, const Tensor& dx,
                            const Tensor& dw);

/// The head of the E2B and E4B drafters: only the tokens of the `top_k` centroids with the largest x·centroid are
/// scored. All other logits are the least scored logit of the sequence (rows without a label included) minus 1, a
/// constant for the gradient. Among equally near centroids the first are chosen. Without a soft cap.
///
///   centroids  [C, H]
///   ordering   [V] int64, a permutation: tokens of centroid c are ordering[c·V/C … (c+1)·V/C - 1]
///
/// Source: Gemma4AssistantMaskedEmbedder, Hugging Face modeling_gemma4_assistant.py.
struct MaskedHead {
  Tensor centroids;
  Tensor ordering;
  std::int64_t top_k = 0;
};

void masked_cross_entropy(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                          const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& loss, const Tensor& dx,
                          const Tensor& dw);

void masked_distillation(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                         const Tensor& x, const Tensor& w, const Teacher& teacher, const Tensor& teacher_rows,
                         const Tensor& loss, const Tensor& dx, const Tensor& dw);

}  // namespace mtp::ops
