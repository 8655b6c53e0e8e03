#include "mtp/train/step_profile.h"

#include <utility>

#include "mtp/core/json.h"

namespace mtp::train {

void StepProfile::begin_step() {
  if (std::exchange(is_first_, false)) return;
  start_ = Clock::now();
  profile_.start();
}

void StepProfile::end_step() {
  if (!profile_.is_on()) return;
  profile_.stop();
  ++steps_;
  seconds_ += std::chrono::duration<double>(Clock::now() - start_).count();
}

void StepProfile::write(const std::filesystem::path& path) const {
  Json operations = Json::array();
  double in_operations = 0;
  for (const Profile::Entry& entry : profile_.entries()) {
    in_operations += entry.seconds;
    operations.push_back(
        {{"part", entry.part}, {"operation", entry.operation}, {"calls", entry.calls}, {"seconds", entry.seconds}});
  }
  write_json(
      path,
      {{"steps", steps_}, {"seconds", seconds_}, {"seconds_in_operations", in_operations}, {"operations", operations}});
}

}  // namespace mtp::train
