#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "heads.h"
#include "mtp/ops/choice.h"
#include "support/products.h"

namespace mtp::bench {

namespace {

/// The masked head of a drafter over a slice of its vocabulary: as many tokens to a centroid as in the whole.
struct Masked {
  Projection projection;
  ops::MaskedHead head;
  std::vector<std::int64_t> ordering;
  ops::Sequences sequences;

  std::int64_t tokens_per_centroid() const { return projection.w.size(0) / head.centroids.size(0); }
  std::int64_t selected() const { return head.top_k * tokens_per_centroid(); }
  /// FLOPs of choosing the centroids and of `products` over the selected tokens.
  double flops(int products) const {
    return product_flops(projection.rows(), projection.width(), head.centroids.size(0) + products * selected());
  }
  /// Of `passes` over the rows of selected tokens, which are those of one row at the least.
  double bytes(int passes) const {
    const auto elements = static_cast<double>(selected() * projection.width());
    return bytes_of({projection.x, head.centroids, projection.labels}) + passes * elements * sizeof(float);
  }
};

Masked masked(Device& device, const Sizes& s, const std::vector<std::int64_t>& labels) {
  const std::int64_t centroids = s.vocabulary / (s.drafter.vocab_size / s.centroids);
  std::vector<std::int64_t> ordering(static_cast<std::size_t>(s.vocabulary));
  for (std::int64_t i = 0; i < s.vocabulary; ++i) ordering[i] = i * 5 % s.vocabulary;  // its size is no multiple of 5
  return {.projection = projection(device, s.rows, s.drafter.hidden_size, s.vocabulary, 0, labels),
          .head = {.centroids = random_tensor(device, {centroids, s.drafter.hidden_size}, 21),
                   .ordering = device.from_host(ordering),
                   .top_k = s.top_k},
          .ordering = ordering,
          .sequences = ops::Sequences({s.rows})};
}

/// The logits of every row over the vocabulary, unselected ones too.
class ExpectedLogits {
 public:
  ExpectedLogits(const Device& device, const Masked& m) {
    const Tensor& x = m.projection.x;
    least_ = std::numeric_limits<double>::infinity();
    for (std::int64_t i = 0; i < x.size(0); ++i) {
      const Values all = logits(device, row(device, x, i), m.projection.w, 0);
      std::vector<bool> is_selected(all.size());
      for (const std::int64_t centroid : nearest(logits(device, row(device, x, i), m.head.centroids, 0), m.head.top_k))
        for (std::int64_t j = 0; j < m.tokens_per_centroid(); ++j)
          is_selected[m.ordering[centroid * m.tokens_per_centroid() + j]] = true;
      for (std::size_t v = 0; v < all.size(); ++v)
        if (is_selected[v]) least_ = std::min(least_, all[v]);
      logits_.push_back(all);
      is_selected_.push_back(is_selected);
    }
  }

  bool is_selected(std::int64_t row, std::size_t token) const { return is_selected_[row][token]; }
  Values of(std::int64_t row) const {
    Values z = logits_[row];
    for (std::size_t v = 0; v < z.size(); ++v)
      if (!is_selected(row, v)) z[v] = least_ - 1;
    return z;
  }

 private:
  static std::vector<std::int64_t> nearest(const Values& scores, std::int64_t top_k) {
    std::vector<std::int64_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
    order.resize(static_cast<std::size_t>(top_k));
    return order;
  }

  std::vector<Values> logits_;
  std::vector<std::vector<bool>> is_selected_;
  double least_;
};

/// `target(row)` [V]: the probabilities that the loss is against.
void check_losses(Device& device, const Masked& m, const std::function<Values(std::int64_t row)>& target) {
  const Projection& p = m.projection;
  const ExpectedLogits expected_logits(device, m);
  ExpectedLosses expected(device, p);
  for (const std::int64_t i : sample(p.x.size(0))) {
    Values gradient = softmax(expected_logits.of(i));
    const Values wanted = target(i);
    double loss = 0;
    for (std::size_t v = 0; v < wanted.size(); ++v) {
      loss -= wanted[v] * std::log(gradient[v]);
      gradient[v] = expected_logits.is_selected(i, v) ? (gradient[v] - wanted[v]) * p.ce.gradient_scale : 0;
    }
    expected.add(i, loss, gradient);
  }
  expected.check();
  label_every_row(device, p);
}

Work cross_entropy(Device& device, const Sizes& s) {
  const Masked m = masked(device, s, random_ids(s.rows, s.vocabulary, 3));
  const Projection& p = m.projection;
  const auto label = [labels = p.all_labels, s](std::int64_t i) {
    Values target(static_cast<std::size_t>(s.vocabulary));
    target[labels[i]] = 1;
    return target;
  };
  return {.run =
              [=, &device] {
                ops::masked_cross_entropy(device, p.ce, m.head, m.sequences, p.x, p.w, p.labels, p.loss, p.dx, p.dw);
              },
          .check = [=, &device] { check_losses(device, m, label); },
          .bytes = m.bytes(3) + bytes_of({p.dx}),
          .flops = m.flops(3)};
}

Work distillation(Device& device, const Sizes& s) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(s.rows));
  std::iota(rows.begin(), rows.end(), 0);
  const Masked m = masked(device, s, rows);
  const Projection& p = m.projection;
  const ops::Teacher from = teacher(device, s);
  const auto target = [=, &device](std::int64_t i) {
    return softmax(logits(device, row(device, from.x, i), from.w, from.soft_cap));
  };
  return {.run =
              [=, &device] {
                ops::masked_distillation(device, p.ce, m.head, m.sequences, p.x, p.w, from, p.labels, p.loss, p.dx,
                                         p.dw);
              },
          .check = [=, &device] { check_losses(device, m, target); },
          .bytes = m.bytes(3) + bytes_of({p.dx, from.x, from.w}),
          .flops = m.flops(3) + product_flops(s.rows, s.base.hidden_size, s.vocabulary)};
}

Work choice(Device& device, const Sizes& s) {
  const Masked m = masked(device, s, random_ids(s.rows, s.vocabulary, 3));
  const Projection& p = m.projection;
  const Tensor choices = device.empty({s.rows}, DType::i64);
  const auto check = [=, &device] {
    const ExpectedLogits expected(device, m);
    expect_choices(device, choices, [&](std::int64_t i) { return expected.of(i); });
    label_every_row(device, p);
  };
  return {.run = [=, &device] { ops::masked_choice(device, m.head, p.x, p.w, p.labels, choices); },
          .check = check,
          .bytes = m.bytes(1),
          .flops = m.flops(1)};
}

bool has_centroids(const Sizes& sizes) { return sizes.centroids > 0; }

}  // namespace

std::vector<Case> masked_head_cases() {
  return {{"masked_cross_entropy", "", cross_entropy, has_centroids},
          {"masked_distillation", "", distillation, has_centroids},
          {"masked_choice", "", choice, has_centroids}};
}

}  // namespace mtp::bench
