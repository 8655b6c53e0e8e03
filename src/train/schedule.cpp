#include "mtp/train/schedule.h"

#include <cmath>
#include <numbers>

#include "mtp/core/error.h"

namespace mtp::train {

Schedule Schedule::from(const Settings& settings, std::int64_t steps) {
  const Settings::Schedule& set = settings.schedule;
  const double lr = settings.optimizer.lr;
  Schedule schedule{.style = set.style,
                    .warmup_steps = set.warmup_steps.value_or(steps / 10),
                    .decay_steps = set.decay_steps.value_or(steps),
                    .lr = lr,
                    .init_lr = set.init_lr.value_or(0.1 * lr),
                    .min_lr = set.min_lr.value_or(0.01 * lr)};
  if (schedule.style != ScheduleStyle::constant && schedule.warmup_steps >= schedule.decay_steps)
    throw UsageError(
        "settings schedule.warmup_steps and schedule.decay_steps: the warm-up ({}) must end before the "
        "decay ({}); a run of {} steps",
        schedule.warmup_steps, schedule.decay_steps, steps);
  return schedule;
}

double Schedule::rate(std::int64_t step) const {
  const auto progress = [](std::int64_t done, std::int64_t of) {
    return static_cast<double>(done) / static_cast<double>(of);
  };
  if (warmup_steps > 0 && step <= warmup_steps) return init_lr + (lr - init_lr) * progress(step, warmup_steps);
  if (style == ScheduleStyle::constant) return lr;
  if (step > decay_steps) return min_lr;
  const double done = progress(step - warmup_steps, decay_steps - warmup_steps);
  if (style == ScheduleStyle::linear) return lr + (min_lr - lr) * done;
  return min_lr + (lr - min_lr) * 0.5 * (std::cos(std::numbers::pi * done) + 1.0);
}

}  // namespace mtp::train
