#include <algorithm>
#include <numeric>

#include "gemm.h"
#include "loss.h"
#include "mtp/ops/choice.h"
#include "mtp/ops/cross_entropy.h"
#include "mtp/ops/matmul.h"
#include "mtp/ops/rowwise.h"

namespace mtp::ops::cpu {

namespace {

/// y[rows[i]] += x[i]
void add_rows(const Tensor& x, cpu::RowSpan rows, const Tensor& y) {
  const std::int64_t width = x.size(1);
  const float* in = x.f32();
  for (const std::int64_t row : rows) {
    float* out = y.f32() + row * width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) out[i] += in[i];
    in += width;
  }
}

/// The scores of one sequence, x [n, H]. Rows that chose the same centroid score its tokens in one product.
class MaskedScores {
 public:
  MaskedScores(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w)
      : device_(device), head_(head), x_(x), w_(w), tokens_per_centroid_(w.size(0) / head.centroids.size(0)) {
    choose_centroids();
    score();
  }

  /// The scores of a row, or what the caller put in their place.
  std::span<float> row(std::int64_t i) const {
    return {scores_.f32() + i * scores_.size(1), static_cast<std::size_t>(scores_.size(1))};
  }

  /// body(j, token) for the token of each row(i)[j].
  template <typename Body>
  void for_each_token(std::int64_t i, const Body& body) const {
    std::int64_t j = 0;
    for (std::int64_t slot = 0; slot < head_.top_k; ++slot)
      for (const std::int64_t token : tokens_of(chosen_[i * head_.top_k + slot])) body(j++, token);
  }

  /// The token with the largest score of a row, of equal ones the lowest.
  std::int64_t best_token(std::int64_t i) const {
    const std::span<const float> z = row(i);
    std::int64_t best = -1;
    float best_score = 0;
    for_each_token(i, [&](std::int64_t j, std::int64_t token) {
      if (best >= 0 && (z[j] < best_score || (z[j] == best_score && token > best))) return;
      best = token;
      best_score = z[j];
    });
    return best;
  }

  /// The logit of every token that is not selected.
  float unselected() const { return unselected_; }

  /// The softmax of a row over the whole vocabulary.
  cpu::Softmax softmax(std::int64_t i) const {
    cpu::Softmax softmax(row(i));
    softmax.add(unselected_, w_.size(0) - scores_.size(1));
    return softmax;
  }

  // With gradients in place of the scores of the first rows:
  /// Writes the gradient of these rows.   dx [rows, H]
  void backward_x(const Tensor& dx) const;
  /// Adds the gradient through the first `rows` rows.   dw [V, H]
  void backward_w(std::int64_t rows, const Tensor& dw) const;

 private:
  /// A row that chose a centroid, as the slot-th of its own.
  struct Member {
    std::int64_t row, slot;
  };
  using Members = std::span<const Member>;

  void choose_centroids();
  void score();

  /// body(tokens, members) in parallel for every centroid that some of the first `rows` rows chose: its tokens, which
  /// no other has, and those rows.
  template <typename Body>
  void for_each_chosen(std::int64_t rows, const Body& body) const {
    cpu::parallel_for(device_, head_.centroids.size(0), [&](std::int64_t centroid) {
      const std::vector<Member>& all = members_[centroid];
      const auto end = std::find_if(all.begin(), all.end(), [rows](const Member& m) { return m.row >= rows; });
      if (end != all.begin()) body(tokens_of(centroid), Members(all.begin(), end));
    });
  }

  cpu::RowSpan tokens_of(std::int64_t centroid) const {
    return {head_.ordering.data<std::int64_t>() + centroid * tokens_per_centroid_,
            static_cast<std::size_t>(tokens_per_centroid_)};
  }
  float* scores_of(const Member& member) const {
    return scores_.f32() + member.row * scores_.size(1) + member.slot * tokens_per_centroid_;
  }
  Tensor gather_x(Members members) const;
  Tensor gather_scores(Members members) const;

  Device& device_;
  const MaskedHead& head_;
  const Tensor x_, w_;
  const std::int64_t tokens_per_centroid_;
  std::vector<std::int64_t> chosen_;          // [n, top_k]: centroids of each row, best first
  std::vector<std::vector<Member>> members_;  // of each centroid, by row
  Tensor scores_;                             // [n, top_k · V/C]
  float unselected_ = 0;
};

void MaskedScores::choose_centroids() {
  const std::int64_t n = x_.size(0), centroids = head_.centroids.size(0), top_k = head_.top_k;
  const Tensor logits = device_.empty({n, centroids});
  linear_forward(device_, x_, head_.centroids, logits);
  chosen_.resize(n * top_k);
  cpu::parallel_for(device_, n, [&](std::int64_t i) {
    const float* z = logits.f32() + i * centroids;
    std::vector<std::int64_t> order(centroids);
    std::iota(order.begin(), order.end(), 0);
    // Among equals the first is chosen; torch.topk leaves that open.
    std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                      [z](std::int64_t a, std::int64_t b) { return z[a] > z[b] || (z[a] == z[b] && a < b); });
    std::copy_n(order.begin(), top_k, chosen_.begin() + i * top_k);
  });
  members_.resize(centroids);
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t slot = 0; slot < top_k; ++slot) members_[chosen_[i * top_k + slot]].push_back({i, slot});
}

Tensor MaskedScores::gather_x(Members members) const {
  cpu::Rows rows;
  for (const Member& member : members) rows.push_back(member.row);
  return cpu::gather_rows(device_, x_, rows);
}

Tensor MaskedScores::gather_scores(Members members) const {
  const Tensor z = device_.empty({static_cast<std::int64_t>(members.size()), tokens_per_centroid_});
  float* out = z.f32();
  for (const Member& member : members) out = std::copy_n(scores_of(member), tokens_per_centroid_, out);
  return z;
}

void MaskedScores::score() {
  scores_ = device_.empty({x_.size(0), head_.top_k * tokens_per_centroid_});
  for_each_chosen(x_.size(0), [&](cpu::RowSpan tokens, Members members) {
    const Tensor x = gather_x(members), w = cpu::gather_rows(device_, w_, tokens);
    const std::int64_t n = x.size(0), count = w.size(0), width = x.size(1);
    const Tensor z = device_.empty({n, count});
    cpu::gemm('n', 't', n, count, width, 1, x.f32(), width, w.f32(), width, 0, z.f32(), count);
    for (std::int64_t i = 0; i < n; ++i) std::copy_n(z.f32() + i * count, count, scores_of(members[i]));
  });
  unselected_ = *std::min_element(scores_.f32(), scores_.f32() + scores_.elements()) - 1.0f;
}

void MaskedScores::backward_x(const Tensor& dx) const {
  const std::int64_t rows = dx.size(0), width = dx.size(1), top_k = head_.top_k;
  // A row's gradient through each of its centroids; they are added in the order of its choice afterwards.
  const Tensor parts = device_.empty({rows * top_k, width});
  for_each_chosen(rows, [&](cpu::RowSpan tokens, Members members) {
    const Tensor dz = gather_scores(members), w = cpu::gather_rows(device_, w_, tokens);
    const std::int64_t n = dz.size(0), count = dz.size(1);
    const Tensor part = device_.empty({n, width});
    cpu::gemm('n', 'n', n, width, count, 1, dz.f32(), count, w.f32(), width, 0, part.f32(), width);
    for (std::int64_t i = 0; i < n; ++i)
      std::copy_n(part.f32() + i * width, width, parts.f32() + (members[i].row * top_k + members[i].slot) * width);
  });
  cpu::parallel_for(device_, rows, [&](std::int64_t i) {
    const float* in = parts.f32() + i * top_k * width;
    float* out = dx.f32() + i * width;
    std::copy_n(in, width, out);
    for (std::int64_t slot = 1; slot < top_k; ++slot) {
#pragma omp simd
      for (std::int64_t j = 0; j < width; ++j) out[j] += in[slot * width + j];
    }
  });
}

void MaskedScores::backward_w(std::int64_t rows, const Tensor& dw) const {
  for_each_chosen(rows, [&](cpu::RowSpan tokens, Members members) {
    const Tensor dz = gather_scores(members), x = gather_x(members);
    const std::int64_t n = dz.size(0), count = dz.size(1), width = x.size(1);
    const Tensor part = device_.empty({count, width});
    cpu::gemm('t', 'n', count, width, n, 1, dz.f32(), count, x.f32(), width, 0, part.f32(), width);
    add_rows(part, tokens, dw);
  });
}

/// The loss of row i; its scores are replaced by their gradient.
double label_loss(float gradient_scale, std::int64_t label, const MaskedScores& scores, std::int64_t i) {
  const cpu::Softmax softmax = scores.softmax(i);
  const std::span<float> z = scores.row(i);
  std::int64_t selected = -1;
  scores.for_each_token(i, [&](std::int64_t j, std::int64_t token) { selected = token == label ? j : selected; });
  const float z_label = selected < 0 ? scores.unselected() : z[selected];
  float* values = z.data();
#pragma omp simd
  for (std::size_t j = 0; j < z.size(); ++j) values[j] = gradient_scale * softmax(values[j]);
  if (selected >= 0) values[selected] -= gradient_scale;
  return softmax.log_sum() - z_label;
}

/// The same against the softmax p of `teacher`: Σ p (log_sum - z), where z is a constant but for the selected tokens.
double distillation_loss(float gradient_scale, std::span<const float> teacher, const MaskedScores& scores,
                         std::int64_t i) {
  const cpu::Softmax softmax = scores.softmax(i), target(teacher);
  const std::span<float> z = scores.row(i);
  double loss = softmax.log_sum() - scores.unselected();
  scores.for_each_token(i, [&](std::int64_t j, std::int64_t token) {
    const float p = target(teacher[token]);
    loss -= static_cast<double>(p) * (z[j] - scores.unselected());
    z[j] = gradient_scale * (softmax(z[j]) - p);
  });
  return loss;
}

/// The same, at another distance from it.
double distance_loss(Distance distance, float gradient_scale, std::span<const float> teacher,
                     const MaskedScores& scores, std::int64_t i) {
  const cpu::Softmax softmax = scores.softmax(i), target(teacher);
  const std::span<float> z = scores.row(i);
  const float unselected = softmax(scores.unselected());
  Likeness likeness{.cross_entropy = softmax.log_sum() - scores.unselected()};
  for (const float logit : teacher) likeness.add(target(logit), unselected);
  scores.for_each_token(i, [&](std::int64_t j, std::int64_t token) {
    const float p = target(teacher[token]);
    likeness.add(p, unselected, -1);
    likeness.add(p, softmax(z[j]));
    likeness.cross_entropy -= static_cast<double>(p) * (z[j] - scores.unselected());
  });
  const DistanceLoss loss(distance, likeness);
  scores.for_each_token(i, [&](std::int64_t j, std::int64_t token) {
    z[j] = gradient_scale * loss.gradient(target(teacher[token]), softmax(z[j]));
  });
  return loss.value();
}

/// The rows with `chosen` ≥ 0, sequence by sequence. `losses_of(rows)` gives the function (i, scores, row) that
/// computes the loss of the i-th of these rows, which is row `row` of `scores`, and replaces its scores by their
/// gradient.
template <typename LossesOf>
void score_sequences(Device& device, const MaskedHead& head, const Sequences& sequences, const Tensor& x,
                     const Tensor& w, const Tensor& chosen, const Tensor& loss, const Tensor& dx, const Tensor& dw,
                     const LossesOf& losses_of) {
  double sum = 0;
  if (!dx.empty()) device.set_zero(dx);
  for (std::int64_t b = 0; b < sequences.count(); ++b) {
    cpu::Rows rows = cpu::chosen_rows(chosen, sequences.begin(b), sequences.end(b));
    const auto n = static_cast<std::int64_t>(rows.size());
    if (n == 0) continue;
    // The others follow: they count for the least score only.
    for (std::int64_t t = sequences.begin(b); t < sequences.end(b); ++t)
      if (chosen.data<std::int64_t>()[t] < 0) rows.push_back(t);
    const MaskedScores scores(device, head, cpu::gather_rows(device, x, rows), w);
    cpu::for_each_chunk(n, w.size(0), [&](std::int64_t begin, std::int64_t end) {
      const auto row_loss = losses_of(cpu::RowSpan(rows).subspan(begin, end - begin));
      sum += cpu::sum_of_losses(device, end - begin, [&](std::int64_t i) { return row_loss(i, scores, begin + i); });
    });
    if (!dx.empty()) {
      const Tensor rows_dx = device.empty({n, x.size(1)});
      scores.backward_x(rows_dx);
      cpu::scatter_rows(rows_dx, cpu::RowSpan(rows).first(n), dx);
    }
    if (!dw.empty()) scores.backward_w(n, dw);
  }
  loss.data<double>()[0] = sum;
}

}  // namespace

void masked_cross_entropy(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                          const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& loss, const Tensor& dx,
                          const Tensor& dw) {
  score_sequences(device, head, sequences, x, w, labels, loss, dx, dw, [&](cpu::RowSpan rows) {
    return [&, rows](std::int64_t i, const MaskedScores& scores, std::int64_t row) {
      const std::int64_t label = labels.data<std::int64_t>()[rows[i]];
      MTP_ASSERT(label < w.size(0));
      return label_loss(ce.gradient_scale, label, scores, row);
    };
  });
}

void masked_distillation(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                         const Tensor& x, const Tensor& w, const Teacher& teacher, const Tensor& teacher_rows,
                         const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  const std::int64_t vocabulary = w.size(0);
  score_sequences(device, head, sequences, x, w, teacher_rows, loss, dx, dw, [&](cpu::RowSpan rows) {
    return [&, vocabulary, logits = cpu::teacher_logits(device, teacher, teacher_rows, rows)](
               std::int64_t i, const MaskedScores& scores, std::int64_t row) {
      const std::span<const float> z(logits.f32() + i * vocabulary, static_cast<std::size_t>(vocabulary));
      if (teacher.distance == Distance::cross_entropy) return distillation_loss(ce.gradient_scale, z, scores, row);
      return distance_loss(teacher.distance, ce.gradient_scale, z, scores, row);
    };
  });
}

void rowwise_masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w,
                           const Tensor& choices) {
  for (std::int64_t row = 0; row < x.size(0); ++row)
    choices.data<std::int64_t>()[row] =
        MaskedScores(device, head, cpu::gather_rows(device, x, {&row, 1}), w).best_token(0);
}

void masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& labels,
                   const Tensor& choices) {
  cpu::choose(device, x, w, labels, choices, [&](const Tensor& chunk_x) {
    return [scores = MaskedScores(device, head, chunk_x, w)](std::int64_t i) { return scores.best_token(i); };
  });
}

}  // namespace mtp::ops::cpu
