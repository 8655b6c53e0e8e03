#pragma once

#include "mtp/ops/elementwise.h"
#include "mtp/ops/rowwise.h"

namespace mtp::ops {

/// What a product multiplies, by operations: what comes before it is done, and the norm is applied.
inline Tensor prepared(Device& device, const RowwiseInput& in) {
  const Shape rows{in.x.size(0)};
  if (!in.branch.empty()) {
    add_rms_norm_forward(device, in.norm, in.residual, in.branch, in.branch_weight, in.x, device.empty(rows));
    if (in.factor != 1.0f) scale(device, in.x, in.factor, in.x);
  }
  if (in.weight.empty()) return in.x;
  Tensor normed = device.empty(in.x.shape(), in.x.dtype());
  rms_norm_forward(device, in.norm, in.x, in.weight, normed, device.empty(rows));
  return normed;
}

}  // namespace mtp::ops
