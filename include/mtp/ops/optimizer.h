#pragma once

#include <span>

#include "mtp/core/random.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

/// One AdamW step as PyTorch's torch.optim.AdamW computes it. `step` is 1-based.
struct AdamW {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;
  float gradient_factor = 1;  // the clip factor, multiplied into every gradient first
};

/// Consecutive parameters, and what AdamW keeps for them.   all [n]
struct AdamWShard {
  Tensor gradient, weight;       // fp32
  Tensor moment1, moment2;       // both fp32 or both bf16
  bool moments_on_host = false;  // made by `Device::zeros_on_host`
  Tensor rounded_weight = {};    // bf16, or empty
  /// Moments in bf16 are rounded up or down at random, so that they are right on average: the second moment of a weight
  /// changes by less per step than bf16 could tell apart. Element i takes word (first + i) mod 4 of block
  /// ⌊(first + i) / 4⌋, of which the lower half is the first moment's and the upper half the second's.
  Random random{0, Purpose::stochastic_rounding, 0};
  std::int64_t first = 0;
};

/// Updates weights and moments in place, and writes the new weights to `rounded_weight` too, rounded to the nearest, in
/// one pass. Moments on the host go through the device's memory piece by piece while others are updated.
void adamw(Device& device, const AdamW& adamw, std::span<const AdamWShard> shards);

/// sums[b] = Σ gradient² over block b of `block` elements, in fp64 and a fixed order.   gradient [n], sums [n / block]
/// fp64
void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums);

}  // namespace mtp::ops
