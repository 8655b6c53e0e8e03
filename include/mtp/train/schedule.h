#pragma once

#include <cstdint>

#include "mtp/core/settings.h"

namespace mtp::train {

/// The learning rate over the steps of a run: linear from `init_lr` to `lr` over the warm-up, then by style down to
/// `min_lr` at `decay_steps` (constant: `lr` for ever). Fixed at a run's first start.
/// Source: learning_rate of the reference.
struct Schedule {
  ScheduleStyle style = ScheduleStyle::cosine;
  std::int64_t warmup_steps = 0, decay_steps = 0;
  double lr = 0, init_lr = 0, min_lr = 0;

  /// Fills what the settings leave open, for a run of `steps` steps. Throws UsageError where the warm-up does not end
  /// before the decay.
  static Schedule from(const Settings& settings, std::int64_t steps);

  /// Rate of 0-based `step`.
  double rate(std::int64_t step) const;
};

}  // namespace mtp::train
