#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops {

/// One AdamW step as PyTorch's torch.optim.AdamW computes it. `step` is 1-based.
struct AdamW {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;
  float gradient_factor = 1;  // the clip factor, multiplied into every gradient first
};

/// Updates weight, first and second moment in place, in one pass.   all [n] fp32
void adamw(Device& device, const AdamW& adamw, const Tensor& gradient, const Tensor& weight, const Tensor& moment1,
           const Tensor& moment2);

/// sums[b] = Σ gradient² over block b of `block` elements, in fp64 and a fixed order.   gradient [n], sums [n / block]
/// fp64
void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums);

}  // namespace mtp::ops
