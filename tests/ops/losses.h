#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "mtp/ops/cross_entropy.h"
#include "ops/support.h"

namespace mtp::ops::test {

// What the tests of the two heads share: the losses of given logits, in double precision.

using Labels = std::vector<std::int64_t>;

inline Array product(const Array& x, const Array& w) {
  Array z({x.size(0), w.size(0)});
  for (std::int64_t t = 0; t < x.size(0); ++t)
    for (std::int64_t v = 0; v < w.size(0); ++v)
      for (std::int64_t i = 0; i < x.size(1); ++i) z(t, v) += x(t, i) * w(v, i);
  return z;
}

inline Array capped(Array z, double cap) {
  if (cap > 0)
    for (double& value : z.values) value = cap * std::tanh(value / cap);
  return z;
}

/// exp of the result is the softmax of each row.
inline Array log_softmax(Array z) {
  for (std::int64_t t = 0; t < z.size(0); ++t) {
    double sum = 0;
    for (std::int64_t v = 0; v < z.size(1); ++v) sum += std::exp(z(t, v));
    for (std::int64_t v = 0; v < z.size(1); ++v) z(t, v) -= std::log(sum);
  }
  return z;
}

inline double cross_entropy_sum(const Array& z, const Labels& labels) {
  const Array log_p = log_softmax(z);
  double sum = 0;
  for (std::int64_t t = 0; t < z.size(0); ++t)
    if (labels[t] >= 0) sum -= log_p(t, labels[t]);
  return sum;
}

/// What a student is taught by: logits and, of each of its rows, the teacher's row or -1.
struct Lesson {
  Array x, w;
  float soft_cap = 0;
  Labels rows;
  Distance distance = Distance::cross_entropy;

  /// Of logits z. The share of cross-entropy in a mixed loss is a constant: that of z0.
  double loss_sum(const Array& z, const Array& z0) const {
    const Array log_q = log_softmax(z), log_q0 = log_softmax(z0), log_p = log_softmax(capped(product(x, w), soft_cap));
    double sum = 0;
    for (std::int64_t t = 0; t < z.size(0); ++t) {
      if (rows[t] < 0) continue;
      double entropy = 0, accepted = 0, accepted0 = 0;
      for (std::int64_t v = 0; v < z.size(1); ++v) {
        const double p = std::exp(log_p(rows[t], v));
        entropy -= p * log_q(t, v);
        accepted += std::min(p, std::exp(log_q(t, v)));
        accepted0 += std::min(p, std::exp(log_q0(t, v)));
      }
      if (distance == Distance::cross_entropy) {
        sum += entropy;
        continue;
      }
      const double share = distance == Distance::mixed ? std::exp(-3 * accepted0) : 0;
      sum += share * entropy + (1 - share) * (1 - accepted);
    }
    return sum;
  }
  Teacher teacher(Device& device) const { return {to_device(device, x), to_device(device, w), soft_cap, distance}; }
};

/// Random labels, about a third of the rows without one.
Labels some_labels(std::int64_t rows, std::int64_t vocabulary);
/// The row after next within each sequence, where there is one, for about two thirds of the rows.
Lesson some_lesson(const Sequences& sequences, std::int64_t vocabulary, float soft_cap);
/// The one beside the stored entry `name`: position t is taught by position t + 1 where that one has a label.
Lesson stored_lesson(const std::string& name);

/// A loss as an operation with inputs x and w, whose gradients are scaled and dw is added to.
struct LossCase {
  std::string name;
  std::int64_t rows, width, vocabulary;
  bool with_dx = true, with_dw = true;
};
constexpr float gradient_scale = 0.375f;
using RunLoss = std::function<void(Device&, const Tensor& x, const Tensor& w, const Tensor& loss, const Tensor& dx,
                                   const Tensor& dw)>;
Operation loss_operation(const LossCase& shape, std::function<double(const Array& x, const Array& w)> reference,
                         RunLoss run);

}  // namespace mtp::ops::test
