#include "mtp/ops/cross_entropy.h"

#include "back_ends.h"
#include "head_checks.h"

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

}  // namespace

void projected_cross_entropy(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                             const Tensor& labels, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  check(x, w, labels, loss, dx, dw);
  MTP_RUN(projected_cross_entropy, ce, x, w, labels, loss, dx, dw);
}

void projected_distillation(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                            const Teacher& teacher, const Tensor& teacher_rows, const Tensor& loss, const Tensor& dx,
                            const Tensor& dw) {
  check(x, w, teacher_rows, loss, dx, dw);
  check(teacher, w);
  MTP_RUN(projected_distillation, ce, x, w, teacher, teacher_rows, loss, dx, dw);
}

void masked_cross_entropy(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                          const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& loss, const Tensor& dx,
                          const Tensor& dw) {
  check(x, w, labels, loss, dx, dw);
  check(ce, head, sequences, x, w);
  MTP_RUN(masked_cross_entropy, ce, head, sequences, x, w, labels, loss, dx, dw);
}

void masked_distillation(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                         const Tensor& x, const Tensor& w, const Teacher& teacher, const Tensor& teacher_rows,
                         const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  check(x, w, teacher_rows, loss, dx, dw);
  check(ce, head, sequences, x, w);
  check(teacher, w);
  MTP_RUN(masked_distillation, ce, head, sequences, x, w, teacher, teacher_rows, loss, dx, dw);
}

}  // namespace mtp::ops
