#include "mtp/ops/attention.h"

#include "back_ends.h"

MTP_BACK_ENDS(attention_forward)
MTP_BACK_ENDS(attention_backward)

namespace mtp::ops {

namespace {

void check(const Sequences& sequences, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
           const Tensor& lse) {
  MTP_ASSERT(!sequences.continues() && q.size(0) == sequences.rows() && k.size(0) == sequences.rows());
  MTP_ASSERT(q.shape().size() == 3 && k.shape().size() == 3 && v.shape() == k.shape() && out.shape() == q.shape());
  MTP_ASSERT(k.size(2) == q.size(2) && q.size(1) % k.size(1) == 0 && lse.elements() == q.size(0) * q.size(1));
}

}  // namespace

void attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  check(sequences, q, k, v, out, lse);
  MTP_RUN(attention_forward, mask, sequences, q, k, v, out, lse);
}

void attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  check(sequences, q, k, v, out, lse);
  MTP_ASSERT(dout.shape() == q.shape() && dq.shape() == q.shape());
  MTP_ASSERT(dk.empty() == dv.empty() && (dk.empty() || (dk.shape() == k.shape() && dv.shape() == k.shape())));
  MTP_RUN(attention_backward, mask, sequences, dout, q, k, v, out, lse, dq, dk, dv);
}

}  // namespace mtp::ops
