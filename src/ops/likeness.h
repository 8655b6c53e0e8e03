#pragma once

#include <cmath>

#include "mtp/ops/cross_entropy.h"

#ifdef __CUDACC__
#define MTP_BOTH_SIDES __host__ __device__
#else
#define MTP_BOTH_SIDES
#endif

namespace mtp::ops {

/// What a row's softmax q and the teacher's p have in common, summed over the vocabulary.
struct Likeness {
  double cross_entropy = 0;  // - Σ p log q
  double accepted = 0;       // α = Σ min(p, q)
  double short_of = 0;       // Σ of those q that are below their p

  MTP_BOTH_SIDES void add(float p, float q, double times = 1) {
    accepted += times * static_cast<double>(q < p ? q : p);
    if (q < p) short_of += times * static_cast<double>(q);
  }
};

/// A row's loss, and the gradient of its logits.
class DistanceLoss {
 public:
  MTP_BOTH_SIDES DistanceLoss(Distance distance, const Likeness& likeness)
      : short_of_(static_cast<float>(likeness.short_of)) {
    const double entropy_share = distance == Distance::mixed ? exp(-3 * likeness.accepted) : 0;
    entropy_ = static_cast<float>(entropy_share);
    variation_ = static_cast<float>(1 - entropy_share);
    value_ = entropy_share * likeness.cross_entropy + (1 - entropy_share) * (1 - likeness.accepted);
  }

  MTP_BOTH_SIDES double value() const { return value_; }
  MTP_BOTH_SIDES float gradient(float p, float q) const {
    return entropy_ * (q - p) + variation_ * q * (short_of_ - (q < p ? 1.0f : 0.0f));
  }

 private:
  double value_;
  float entropy_, variation_, short_of_;
};

}  // namespace mtp::ops
