#include "mtp/ops/rowwise.h"

#include "back_ends.h"
#include "head_checks.h"

MTP_BACK_ENDS(rowwise_linear)
MTP_BACK_ENDS(rowwise_gated_linear)
MTP_BACK_ENDS(rowwise_gate)
MTP_BACK_ENDS(rowwise_experts)
MTP_BACK_ENDS(rowwise_choice)
MTP_BACK_ENDS(rowwise_masked_choice)
MTP_BACK_ENDS(rowwise_heads)
MTP_BACK_ENDS(put_in_ring)
MTP_BACK_ENDS(rowwise_attention)

namespace mtp::ops {

namespace {

constexpr std::size_t most_tensors = 3;  // of a call that takes several

/// y [T, out] = x wᵀ
void check(const RowwiseInput& x, const Tensor& w, const Tensor& y) {
  MTP_ASSERT(w.size(1) == x.x.size(1) && y.size(0) == x.x.size(0) && y.size(1) == w.size(0));
}

/// Rows that go where y is, or into rings.
void check_rows(const Tensor& rows, const Tensor& y) {
  MTP_ASSERT(y.size(-2) == rows.size(1) && y.size(-1) == rows.size(2) && y.dtype() == rows.dtype());
}

void check_places(const RowPlaces& places, std::int64_t rows) {
  MTP_ASSERT(places.positions.elements() == rows && places.texts.elements() == rows);
}

}  // namespace

void rowwise_linear(Device& device, const RowwiseInput& x, const std::vector<Tensor>& w, const std::vector<Tensor>& y) {
  MTP_ASSERT(w.size() == y.size() && w.size() <= most_tensors);
  for (std::size_t i = 0; i < w.size(); ++i) check(x, w[i], y[i]);
  MTP_RUN(rowwise_linear, x, w, y);
}

void rowwise_gated_linear(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& up,
                          const Tensor& y) {
  check(x, gate, y);
  check(x, up, y);
  MTP_RUN(rowwise_gated_linear, x, gate, up, y);
}

void rowwise_gate(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& factors, const Tensor& y) {
  check(x, gate, y);
  MTP_ASSERT(factors.elements() == y.elements());
  MTP_RUN(rowwise_gate, x, gate, factors, y);
}

void rowwise_experts(Device& device, const Tensor& x, const Tensor& experts, const Tensor& weights,
                     const Tensor& gate_up, const Tensor& down, const Tensor& y) {
  MTP_ASSERT(experts.size(0) == x.size(0) && weights.shape() == experts.shape() && y.shape() == x.shape());
  MTP_ASSERT(gate_up.size(2) == x.size(1) && gate_up.size(1) == 2 * down.size(2) && down.size(1) == x.size(1));
  MTP_RUN(rowwise_experts, x, experts, weights, gate_up, down, y);
}

void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, std::int64_t none, const Tensor& choices) {
  check_projection(x, w, choices);
  MTP_RUN(rowwise_choice, x, w, none, choices);
}

void rowwise_masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w,
                           const Tensor& choices) {
  check_projection(x, w, choices);
  check_masked_head(head, w);
  MTP_RUN(rowwise_masked_choice, head, x, w, choices);
}

void rowwise_heads(Device& device, const RmsNorm& norm, const Rope& rope, const RowPlaces& places,
                   const std::vector<Heads>& heads) {
  MTP_ASSERT(!heads.empty() && heads.size() <= most_tensors);
  check_places(places, heads[0].x.size(0));
  for (const Heads& each : heads) {
    check_rows(each.x, each.y);
    MTP_ASSERT(each.x.size(0) == heads[0].x.size(0));
    MTP_ASSERT(each.is_ring ? each.y.shape().size() == 4 : each.y.size(0) == each.x.size(0));
    MTP_ASSERT(each.x.size(2) == 2 * std::ssize(rope.inverse_frequencies));
  }
  MTP_RUN(rowwise_heads, norm, rope, places, heads);
}

void put_in_ring(Device& device, const Tensor& rows, const Tensor& ring) {
  check_rows(rows, ring);
  MTP_RUN(put_in_ring, rows, ring);
}

void rowwise_attention(Device& device, const AttentionMask& mask, const RowPlaces& places, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out) {
  check_places(places, q.size(0));
  MTP_ASSERT(mask.kind == AttentionMask::Kind::causal && q.shape() == out.shape() && k.shape() == v.shape());
  MTP_ASSERT(k.shape().size() == 4 && q.size(2) == k.size(3) && q.size(1) % k.size(2) == 0);
  MTP_RUN(rowwise_attention, mask, places, q, k, v, out);
}

}  // namespace mtp::ops
