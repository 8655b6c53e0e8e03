#include "mtp/train/schedule.h"

#include <gmock/gmock.h>

#include "support/error_of.h"

namespace mtp::train {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::HasSubstr;

std::vector<double> rates(const Schedule& schedule, std::int64_t steps) {
  std::vector<double> rates;
  for (std::int64_t step = 0; step < steps; ++step) rates.push_back(schedule.rate(step));
  return rates;
}

auto near(double value) { return DoubleNear(value, 1e-15); }

TEST(Schedule, WarmsUpAndFallsByItsStyle) {
  Schedule schedule{.warmup_steps = 2, .decay_steps = 6, .lr = 1, .init_lr = 0.5, .min_lr = 0.1};
  schedule.style = ScheduleStyle::constant;
  EXPECT_THAT(rates(schedule, 8), ElementsAre(0.5, 0.75, 1, 1, 1, 1, 1, 1));
  schedule.style = ScheduleStyle::linear;
  EXPECT_THAT(rates(schedule, 8), ElementsAre(0.5, 0.75, 1, near(0.775), near(0.55), near(0.325), near(0.1), 0.1));
  schedule.style = ScheduleStyle::cosine;  // (1 + cos(π/4)) / 2 = 0.853553… of the way between lr and min_lr
  EXPECT_THAT(rates(schedule, 8), ElementsAre(0.5, 0.75, 1, near(0.86819805153394635), near(0.55),
                                              near(0.23180194846605368), near(0.1), 0.1));
}

TEST(Schedule, DefaultsFollowFromTheStepsOfTheRun) {
  Settings settings;
  settings.optimizer.lr = 1;
  const Schedule schedule = Schedule::from(settings, 50);
  EXPECT_EQ(schedule.style, ScheduleStyle::cosine);
  EXPECT_EQ(schedule.warmup_steps, 5);
  EXPECT_EQ(schedule.decay_steps, 50);
  EXPECT_EQ(schedule.init_lr, 0.1);
  EXPECT_EQ(schedule.min_lr, 0.01);
}

TEST(Schedule, AWarmUpThatEndsAfterTheDecayIsRefused) {
  Settings settings;
  settings.schedule.warmup_steps = 4;
  settings.schedule.decay_steps = 4;
  EXPECT_THAT(test::error_of<UsageError>([&] { Schedule::from(settings, 10); }),
              HasSubstr("the warm-up (4) must end before the decay (4)"));
  settings.schedule.style = ScheduleStyle::constant;  // has no decay
  EXPECT_EQ(Schedule::from(settings, 10).warmup_steps, 4);
}

}  // namespace
}  // namespace mtp::train
