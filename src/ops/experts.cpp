#include "mtp/ops/experts.h"

#include "back_ends.h"
#include "mtp/ops/flops.h"

MTP_BACK_ENDS(choose_experts_forward)
MTP_BACK_ENDS(choose_experts_backward)
MTP_BACK_ENDS(sort_by_expert)
MTP_BACK_ENDS(expert_linear_forward)
MTP_BACK_ENDS(expert_linear_backward_input)
MTP_BACK_ENDS(expert_linear_backward_weight)
MTP_BACK_ENDS(add_pairs_forward)
MTP_BACK_ENDS(add_pairs_backward)

namespace mtp::ops {

namespace {

void check_choice(const ExpertChoice& choice, const Tensor& logits, const Tensor& scale) {
  MTP_ASSERT(choice.experts.dtype() == DType::i64 && choice.experts.size(0) == logits.size(0));
  MTP_ASSERT(choice.experts.size(1) <= logits.size(1) && scale.elements() == logits.size(1));
  MTP_ASSERT(choice.shares.shape() == choice.experts.shape() && choice.weights.shape() == choice.experts.shape());
}

/// Values or gradients of the products.   x [P, in], w [E, out, in], y [P, out]
void check_products(const ExpertPairs& pairs, const Tensor& x, const Tensor& w, const Tensor& y) {
  MTP_ASSERT(x.size(0) == pairs.rows.elements() && y.size(0) == x.size(0));
  MTP_ASSERT(pairs.offsets.elements() == w.size(0) + 1 && x.size(1) == w.size(2) && y.size(1) == w.size(1));
}

/// x [P, W], weights [T, n] or empty, y [T, W]
void check_sum(const ExpertPairs& pairs, const Tensor& x, const Tensor& weights, const Tensor& y) {
  MTP_ASSERT(y.size(0) == pairs.places.size(0) && (weights.empty() || weights.shape() == pairs.places.shape()));
  MTP_ASSERT(x.empty() || (x.size(0) == pairs.places.elements() && x.size(1) == y.size(1) && x.dtype() == y.dtype()));
}

/// What a device that computes nothing takes a router to choose: how many pairs an expert has decides how much memory
/// ranks need that exchange them.
void spread_evenly(const ExpertPairs& pairs) {
  const std::int64_t count = pairs.rows.elements(), experts = pairs.offsets.elements() - 1;
  for (std::int64_t e = 0; e <= experts; ++e) pairs.offsets.data<std::int64_t>()[e] = count * e / experts;
}

/// Of every pair's product.   x [P, in], w [E, out, in]
double flops(const Tensor& x, const Tensor& w) { return product_flops(x.size(0), w.size(2), w.size(1)); }

}  // namespace

void choose_experts_forward(Device& device, const Tensor& logits, const Tensor& scale, const ExpertChoice& choice) {
  check_choice(choice, logits, scale);
  MTP_RUN(choose_experts_forward, logits, scale, choice);
}

void choose_experts_backward(Device& device, const Tensor& dweights, const ExpertChoice& choice, const Tensor& scale,
                             const Tensor& dlogits, const Tensor& dscale) {
  check_choice(choice, dlogits, scale);
  MTP_ASSERT(dweights.shape() == choice.weights.shape() && (dscale.empty() || dscale.elements() == scale.elements()));
  MTP_RUN(choose_experts_backward, dweights, choice, scale, dlogits, dscale);
}

void sort_by_expert(Device& device, const Tensor& experts, const ExpertPairs& pairs) {
  MTP_ASSERT(pairs.rows.elements() == experts.elements() && pairs.places.shape() == experts.shape());
  if (device.is_counting()) return spread_evenly(pairs);
  MTP_RUN(sort_by_expert, experts, pairs);
}

void expert_linear_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& w,
                           const Tensor& y) {
  check_products(pairs, x, w, y);
  MTP_FLOPS(flops(x, w));
  MTP_RUN(expert_linear_forward, pairs, x, w, y);
}

void expert_linear_backward_input(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& w,
                                  const Tensor& dx) {
  check_products(pairs, dx, w, dy);
  MTP_FLOPS(flops(dx, w));
  MTP_RUN(expert_linear_backward_input, pairs, dy, w, dx);
}

void expert_linear_backward_weight(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                                   const Tensor& dw) {
  check_products(pairs, x, dw, dy);
  MTP_ASSERT(dw.dtype() == DType::f32);
  MTP_FLOPS(flops(x, dw));
  MTP_RUN(expert_linear_backward_weight, pairs, dy, x, dw);
}

void add_pairs_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& weights,
                       const Tensor& y) {
  MTP_ASSERT(!x.empty());
  check_sum(pairs, x, weights, y);
  MTP_RUN(add_pairs_forward, pairs, x, weights, y);
}

void add_pairs_backward(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                        const Tensor& weights, const Tensor& dx, const Tensor& dweights) {
  check_sum(pairs, x, weights, dy);
  check_sum(pairs, dx, dweights, dy);
  MTP_RUN(add_pairs_backward, pairs, dy, x, weights, dx, dweights);
}

}  // namespace mtp::ops
