#include "mtp/train/step_profile.h"

#include <utility>

#include "mtp/core/json.h"

namespace mtp::train {

namespace {

Json to_json(const MemoryAccounts& accounts) {
  Json json{{"held", accounts.held}, {"gaps", accounts.gaps()}};
  for (std::size_t i = 0; i < memory_uses; ++i) json[to_string(static_cast<MemoryUse>(i))] = accounts.in_use_by[i];
  return json;
}

}  // namespace

void StepProfile::begin_step() {
  if (std::exchange(is_first_, false)) return;
  start_ = Clock::now();
  device_.profile().start();
}

void StepProfile::end_step() {
  if (!device_.profile().is_on()) return;
  device_.profile().stop();
  ++steps_;
  seconds_ += std::chrono::duration<double>(Clock::now() - start_).count();
}

void StepProfile::write(const std::filesystem::path& path) const {
  Json operations = Json::array();
  double in_operations = 0;
  for (const Profile::Entry& entry : device_.profile().entries()) {
    in_operations += entry.seconds;
    operations.push_back(
        {{"part", entry.part}, {"operation", entry.operation}, {"calls", entry.calls}, {"seconds", entry.seconds}});
  }
  const Json memory{{"device", to_json(device_.accounts())}, {"host", to_json(device_.host_accounts())}};
  write_json(path, {{"steps", steps_},
                    {"seconds", seconds_},
                    {"seconds_in_operations", in_operations},
                    {"memory", memory},
                    {"operations", operations}});
}

}  // namespace mtp::train
