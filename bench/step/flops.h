#pragma once

#include <cstdint>

#include "mtp/hf/config.h"

namespace mtp::bench {

/// What a step's FLOPs depend on beside the models.
struct StepShape {
  std::int64_t length = 0;  // positions of a sequence, each with a label
  std::int64_t rounds = 0;
};

/// FLOPs of the matrix products of one sequence's forward and backward, two for a multiplication and an addition:
/// three products for each weight, and six for the scores and values of attention over the keys that are seen. What is
/// recomputed does not count, nor does the optimizer. The drafter's head is the dense one.
double model_flops(const hf::BaseConfig& base, const hf::DrafterConfig& drafter, const StepShape& step);

}  // namespace mtp::bench
