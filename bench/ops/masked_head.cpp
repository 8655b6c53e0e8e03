#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "heads.h"
#include "mtp/ops/choice.h"
#include "mtp/ops/flops.h"

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
    return ops::product_flops(projection.rows(), projection.width(), head.centroids.size(0) + products * selected());
  }
  /// Of reading the rows of selected tokens, which are those of one row at the least, and of `passes` over as many of
  /// their gradients.
  double bytes(int passes) const {
    const auto elements = static_cast<double>(selected() * projection.width());
    const double element_bytes = static_cast<double>(size_of(projection.w.dtype())) + passes * double{sizeof(float)};
    return bytes_of({projection.x, head.centroids, projection.labels}) + elements * element_bytes;
  }
};

Masked masked(Device& device, const Sizes& s, const std::vector<std::int64_t>& labels) {
  const std::int64_t centroids = s.vocabulary / (s.drafter.vocab_size / s.centroids);
  std::vector<std::int64_t> ordering(static_cast<std::size_t>(s.vocabulary));
  for (std::int64_t i = 0; i < s.vocabulary; ++i) ordering[i] = i * 5 % s.vocabulary;  // its size is no multiple of 5
  return {.projection = projection(device, s, s.drafter.hidden_size, 0, labels),
          .head = {.centroids = random_tensor(device, {centroids, s.drafter.hidden_size}, 21, 1, s.type),
                   .ordering = device.from_host(ordering),
                   .top_k = s.top_k},
          .ordering = ordering,
          .sequences = ops::Sequences({s.rows})};
}

/// The logits of a sample of rows over the vocabulary, unselected ones too.
class ExpectedLogits {
 public:
  ExpectedLogits(const Device& device, const Masked& m)
      : centroid_of_(m.ordering.size()), rows_near_(static_cast<std::size_t>(m.head.centroids.size(0))) {
    const Tensor &x = m.projection.x, &w = m.projection.w;
    for (std::size_t i = 0; i < m.ordering.size(); ++i)
      centroid_of_[m.ordering[i]] = static_cast<std::int64_t>(i) / m.tokens_per_centroid();
    std::vector<std::int64_t> all(static_cast<std::size_t>(x.size(0)));
    std::iota(all.begin(), all.end(), 0);
    const std::vector<Values> rows = rows_of(device, x, all), scores = logits(device, rows, m.head.centroids, 0);
    for (const std::int64_t i : all)
      for (const std::int64_t centroid : nearest(scores[i], m.head.top_k)) rows_near_[centroid].push_back(i);
    for_each_row(device, w, [&](std::int64_t v, const float* row) {
      for (const std::int64_t i : rows_near_[centroid_of_[v]]) least_ = std::min(least_, dot(rows[i], row));
    });
    const std::vector<std::int64_t> sampled = sample(x.size(0));
    logits_ = logits(device, rows_of(device, x, sampled), w, 0);
    for (std::size_t i = 0; i < sampled.size(); ++i)
      for (std::size_t v = 0; v < logits_[i].size(); ++v)
        if (!is_selected(sampled[i], v)) logits_[i][v] = least_ - 1;
  }

  bool is_selected(std::int64_t row, std::size_t token) const {
    return std::ranges::binary_search(rows_near_[centroid_of_[token]], row);
  }
  /// Of each row of the sample.
  const std::vector<Values>& all() const { return logits_; }

 private:
  static std::vector<std::int64_t> nearest(const Values& scores, std::int64_t top_k) {
    std::vector<std::int64_t> order(scores.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [&](std::int64_t a, std::int64_t b) { return scores[a] > scores[b]; });
    order.resize(static_cast<std::size_t>(top_k));
    return order;
  }

  std::vector<std::int64_t> centroid_of_;             // [V]
  std::vector<std::vector<std::int64_t>> rows_near_;  // of each centroid: the rows that select it, in their order
  double least_ = std::numeric_limits<double>::infinity();
  std::vector<Values> logits_;
};

/// `targets(rows)`: for each row the probabilities [V] that its loss is against.
void check_losses(Device& device, const Masked& m,
                  const std::function<std::vector<Values>(const std::vector<std::int64_t>& rows)>& targets) {
  const Projection& p = m.projection;
  const ExpectedLogits expected_logits(device, m);
  const std::vector<std::int64_t> rows = sample(p.x.size(0));
  const std::vector<Values> wanted = targets(rows);
  ExpectedLosses expected(device, p);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Values gradient = softmax(expected_logits.all()[i]);
    double loss = 0;
    for (std::size_t v = 0; v < gradient.size(); ++v) {
      loss -= wanted[i][v] * std::log(gradient[v]);
      const bool is_selected = expected_logits.is_selected(rows[i], v);
      gradient[v] = is_selected ? (gradient[v] - wanted[i][v]) * p.ce.gradient_scale : 0;
    }
    expected.add(rows[i], loss, gradient);
  }
  expected.check();
  label_every_row(device, p);
}

Work cross_entropy(Device& device, const Sizes& s) {
  const Masked m = masked(device, s, random_ids(s.rows, s.vocabulary, 3));
  const Projection& p = m.projection;
  const auto label = [labels = p.all_labels, s](const std::vector<std::int64_t>& rows) {
    std::vector<Values> targets(rows.size(), Values(static_cast<std::size_t>(s.vocabulary)));
    for (std::size_t i = 0; i < rows.size(); ++i) targets[i][labels[rows[i]]] = 1;
    return targets;
  };
  return {.run =
              [=, &device] {
                ops::masked_cross_entropy(device, p.ce, m.head, m.sequences, p.x, p.w, p.labels, p.loss, p.dx, p.dw);
              },
          .check = [=, &device] { check_losses(device, m, label); },
          .bytes = m.bytes(2) + bytes_of({p.dx}),
          .flops = m.flops(3),
          .flops_type = s.type};
}

Work distillation(Device& device, const Sizes& s) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(s.rows));
  std::iota(rows.begin(), rows.end(), 0);
  const Masked m = masked(device, s, rows);
  const Projection& p = m.projection;
  const ops::Teacher from = teacher(device, s);
  const auto target = [=, &device](const std::vector<std::int64_t>& sampled) {
    std::vector<Values> targets = logits(device, rows_of(device, from.x, sampled), from.w, from.soft_cap);
    for (Values& values : targets) values = softmax(values);
    return targets;
  };
  return {.run =
              [=, &device] {
                ops::masked_distillation(device, p.ce, m.head, m.sequences, p.x, p.w, from, p.labels, p.loss, p.dx,
                                         p.dw);
              },
          .check = [=, &device] { check_losses(device, m, target); },
          .bytes = m.bytes(2) + bytes_of({p.dx, from.x, from.w}),
          .flops = m.flops(3) + ops::product_flops(s.rows, s.base.hidden_size, s.vocabulary),
          .flops_type = s.type};
}

Work choice(Device& device, const Sizes& s) {
  const Masked m = masked(device, s, random_ids(s.rows, s.vocabulary, 3));
  const Projection& p = m.projection;
  const Tensor choices = device.empty({s.rows}, DType::i64);
  const auto check = [=, &device] {
    const ExpectedLogits expected(device, m);
    expect_choices(device, choices, expected.all());
    label_every_row(device, p);
  };
  return {.run = [=, &device] { ops::masked_choice(device, m.head, p.x, p.w, p.labels, choices); },
          .check = check,
          .bytes = m.bytes(0),
          .flops = m.flops(1),
          .flops_type = s.type};
}

bool has_centroids(const Sizes& sizes) { return sizes.centroids > 0; }

}  // namespace

std::vector<Case> masked_head_cases() {
  return {{"masked_cross_entropy", "", cross_entropy, has_centroids},
          {"masked_distillation", "", distillation, has_centroids},
          {"masked_choice", "", choice, has_centroids}};
}

}  // namespace mtp::bench
