#include "mtp/ops/cross_entropy.h"

#include "back_ends.h"
#include "head_checks.h"
#include "mtp/ops/flops.h"

MTP_BACK_ENDS(projected_cross_entropy)
MTP_BACK_ENDS(projected_distillation)
MTP_BACK_ENDS(masked_cross_entropy)
MTP_BACK_ENDS(masked_distillation)

namespace mtp::ops {

namespace {

/// `targets` [T]: labels, or rows of the teacher.
void check(const Tensor& x, const Tensor& w, const Tensor& targets, const Tensor& loss, const Tensor& dx,
           const Tensor& dw) {
  check_projection(x, w, targets);
  MTP_ASSERT(loss.dtype() == DType::f64 && loss.elements() == 1);
  MTP_ASSERT(dx.empty() || dx.elements() == x.elements());
  MTP_ASSERT(dw.empty() || (dw.elements() == w.elements() && dw.dtype() == DType::f32));
}

void check(const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences, const Tensor& x,
           const Tensor& w) {
  check_masked_head(head, w);
  MTP_ASSERT(x.size(0) == sequences.rows() && ce.soft_cap == 0);
}

void check(const Teacher& teacher, const Tensor& w) {
  MTP_ASSERT(teacher.w.size(0) == w.size(0) && teacher.x.size(1) == teacher.w.size(1));
}

/// Of the tokens that each row scores, and of the gradients; the products with centroids and with the teacher's weight
/// are operations of their own.
double flops(const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& dx, const Tensor& dw) {
  const std::int64_t scored = head.top_k * (w.size(0) / head.centroids.size(0));
  return (1.0 + !dx.empty() + !dw.empty()) * product_flops(x.size(0), x.size(1), scored);
}

}  // namespace

void projected_cross_entropy(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                             const Tensor& labels, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  check(x, w, labels, loss, dx, dw);
  const Device::Within logits(device, MemoryUse::logits);
  MTP_RUN(projected_cross_entropy, ce, x, w, labels, loss, dx, dw);
}

void projected_distillation(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                            const Teacher& teacher, const Tensor& teacher_rows, const Tensor& loss, const Tensor& dx,
                            const Tensor& dw) {
  check(x, w, teacher_rows, loss, dx, dw);
  check(teacher, w);
  const Device::Within logits(device, MemoryUse::logits);
  MTP_RUN(projected_distillation, ce, x, w, teacher, teacher_rows, loss, dx, dw);
}

void masked_cross_entropy(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                          const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& loss, const Tensor& dx,
                          const Tensor& dw) {
  check(x, w, labels, loss, dx, dw);
  check(ce, head, sequences, x, w);
  const Device::Within logits(device, MemoryUse::logits);
  MTP_FLOPS(flops(head, x, w, dx, dw));
  MTP_RUN(masked_cross_entropy, ce, head, sequences, x, w, labels, loss, dx, dw);
}

void masked_distillation(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                         const Tensor& x, const Tensor& w, const Teacher& teacher, const Tensor& teacher_rows,
                         const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  check(x, w, teacher_rows, loss, dx, dw);
  check(ce, head, sequences, x, w);
  check(teacher, w);
  const Device::Within logits(device, MemoryUse::logits);
  MTP_FLOPS(flops(head, x, w, dx, dw));
  MTP_RUN(masked_distillation, ce, head, sequences, x, w, teacher, teacher_rows, loss, dx, dw);
}

}  // namespace mtp::ops
