#pragma once

#include <cmath>

#include "mtp/ops/optimizer.h"

namespace mtp::ops {

/// Scalars of a step, computed in double as PyTorch's single-tensor implementation does, and used in fp32.
struct AdamWCoefficients {
  float factor, keep1, beta2, keep2, decay, step_size, root_correction, eps;
};

inline AdamWCoefficients coefficients_of(const AdamW& adamw) {
  const double correction1 = 1.0 - std::pow(adamw.beta1, static_cast<double>(adamw.step));
  const double correction2 = 1.0 - std::pow(adamw.beta2, static_cast<double>(adamw.step));
  return {.factor = adamw.gradient_factor,
          .keep1 = static_cast<float>(1.0 - adamw.beta1),
          .beta2 = static_cast<float>(adamw.beta2),
          .keep2 = static_cast<float>(1.0 - adamw.beta2),
          .decay = static_cast<float>(1.0 - adamw.lr * adamw.weight_decay),
          .step_size = static_cast<float>(-adamw.lr / correction1),
          .root_correction = static_cast<float>(std::sqrt(correction2)),
          .eps = static_cast<float>(adamw.eps)};
}

}  // namespace mtp::ops
