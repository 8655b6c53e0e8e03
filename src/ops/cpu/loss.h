#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "../chunk.h"
#include "../likeness.h"
#include "element_type.h"
#include "mtp/ops/cross_entropy.h"
#include "parallel.h"
#include "vector_math.h"

namespace mtp::ops::cpu {

// What the losses over the whole vocabulary and over the masked head share.

using Rows = std::vector<std::int64_t>;
using RowSpan = std::span<const std::int64_t>;

/// The rows begin … end - 1 of `values` [T] int64 that are ≥ 0: those with a label, or with a row of the teacher.
Rows chosen_rows(const Tensor& values, std::int64_t begin, std::int64_t end);

/// The given rows of a matrix, one after another, in fp32.
Tensor gather_rows(Device& device, const Tensor& x, RowSpan rows);

/// y[rows[i]] = x[i].   x fp32
void scatter_rows(const Tensor& x, RowSpan rows, const Tensor& y);

/// cap(x wᵀ) in fp32, see CrossEntropy::soft_cap.   x [n, H], w [V, H]
Tensor capped_logits(Device& device, const Tensor& x, const Tensor& w, float soft_cap);

/// The teacher's logits [n, V] for the student's `rows`.
Tensor teacher_logits(Device& device, const Teacher& teacher, const Tensor& teacher_rows, RowSpan rows);

inline constexpr Chunk chunk_of_logits{.rows = 256, .logits = std::int64_t{1} << 26};

/// body(begin, end) for pieces of `rows` rows whose [rows, V] logits are to be stored at a time.
template <typename Body>
void for_each_chunk(std::int64_t rows, std::int64_t vocabulary, const Body& body) {
  const std::int64_t chunk = chunk_of_logits.rows_of(vocabulary);
  for (std::int64_t begin = 0; begin < rows; begin += chunk) body(begin, std::min(begin + chunk, rows));
}

/// Σ row_loss(i) over 0 ≤ i < n, computed in parallel and added in order.
template <typename RowLoss>
double sum_of_losses(const Device& device, std::int64_t n, const RowLoss& row_loss) {
  std::vector<double> losses(n);
  parallel_for(device, n, [&](std::int64_t i) { losses[i] = row_loss(i); });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

/// Chunks of the rows with a label: `choice_of(x)` gives the function of i that is the choice of the chunk's i-th row.
///   x [T, H], w [V, H], labels, choices [T] int64
template <typename ChoiceOf>
void choose(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices,
            const ChoiceOf& choice_of) {
  std::int64_t* const out = choices.data<std::int64_t>();
  std::fill_n(out, choices.elements(), no_label);
  const Rows rows = chosen_rows(labels, 0, x.size(0));
  for_each_chunk(static_cast<std::int64_t>(rows.size()), w.size(0), [&](std::int64_t begin, std::int64_t end) {
    const RowSpan chunk = RowSpan(rows).subspan(begin, end - begin);
    const auto choice = choice_of(gather_rows(device, x, chunk));
    parallel_for(device, end - begin, [&](std::int64_t i) { out[chunk[i]] = choice(i); });
  });
}

/// exp(z - maximum) / sum; the maximum keeps the exponentials finite.
class Softmax {
 public:
  explicit Softmax(std::span<const float> z);

  /// `count` more logits of one value, not above the maximum.
  void add(float z, std::int64_t count) { set_sum(sum_ + static_cast<double>(count) * exp_f32(z - maximum_)); }

  float operator()(float z) const { return exp_f32(z - maximum_) * inverse_sum_; }
  double log_sum() const { return maximum_ + std::log(sum_); }

 private:
  void set_sum(double sum) {
    sum_ = sum;
    inverse_sum_ = static_cast<float>(1.0 / sum);
  }

  float maximum_, inverse_sum_;
  double sum_;
};

}  // namespace mtp::ops::cpu
