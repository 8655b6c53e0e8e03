#include "mtp/ops/attention.h"

#include <algorithm>

#include "back_ends.h"
#include "mtp/ops/flops.h"

MTP_BACK_ENDS(attention_forward)
MTP_BACK_ENDS(attention_backward)

namespace mtp::ops {

namespace {

void check(const AttentionMask& mask, const Sequences& sequences, const Tensor& q, const Tensor& k, const Tensor& v,
           const Tensor& out, const Tensor& lse) {
  MTP_ASSERT(mask.blocks == nullptr || (mask.kind == AttentionMask::Kind::causal && mask.offset == 0));
  MTP_ASSERT(!sequences.has_positions() && q.size(0) == sequences.rows() && k.size(0) == sequences.rows());
  MTP_ASSERT(q.shape().size() == 3 && k.shape().size() == 3 && v.shape() == k.shape() && out.shape() == q.shape());
  MTP_ASSERT(k.size(2) == q.size(2) && q.size(1) % k.size(1) == 0 && lse.elements() == q.size(0) * q.size(1));
}

/// Of so many products of each visible pair.
double flops(int products, const AttentionMask& mask, const Sequences& sequences, const Tensor& q) {
  double pairs = 0;
  for (std::int64_t b = 0; b < sequences.count(); ++b)
    pairs += visible_pairs(mask.from_row(sequences.begin(b)), sequences.length(b));
  return products * 2 * pairs * static_cast<double>(q.size(1) * q.size(2));
}

}  // namespace

std::vector<std::int64_t> blocks_of(const Sequences& sequences, std::span<const std::int64_t> ids,
                                    std::span<const std::int64_t> ids_of_blocks) {
  MTP_ASSERT(std::ssize(ids) == sequences.rows());
  std::vector<std::int64_t> blocks(2 * ids.size());
  for (std::int64_t b = 0; b < sequences.count(); ++b)
    for (std::int64_t begin = sequences.begin(b), end = begin; begin < sequences.end(b); begin = end) {
      const auto is_in_block = [&](std::int64_t row) { return std::ranges::count(ids_of_blocks, ids[row]) > 0; };
      for (++end; is_in_block(begin) && end < sequences.end(b) && is_in_block(end);) ++end;
      for (std::int64_t row = begin; row < end; ++row) {
        blocks[2 * row] = begin - sequences.begin(b);
        blocks[2 * row + 1] = end - sequences.begin(b);
      }
    }
  return blocks;
}

void attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  check(mask, sequences, q, k, v, out, lse);
  MTP_FLOPS(flops(2, mask, sequences, q));
  MTP_RUN(attention_forward, mask, sequences, q, k, v, out, lse);
}

void attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  check(mask, sequences, q, k, v, out, lse);
  MTP_ASSERT(dout.shape() == q.shape() && dq.shape() == q.shape());
  MTP_ASSERT(dk.empty() == dv.empty() && (dk.empty() || (dk.shape() == k.shape() && dv.shape() == k.shape())));
  MTP_FLOPS(flops(dk.empty() ? 2 : 4, mask, sequences, q));
  MTP_RUN(attention_backward, mask, sequences, dout, q, k, v, out, lse, dq, dk, dv);
}

}  // namespace mtp::ops
