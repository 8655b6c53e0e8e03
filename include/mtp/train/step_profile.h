#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>

#include "mtp/tensor/device.h"
#include "mtp/tensor/profile.h"

namespace mtp::train {

/// Measures a run's steps but the first, in which memory is taken and algorithms are chosen.
class StepProfile {
 public:
  explicit StepProfile(const Device& device) : device_(device) {}

  /// Around each step. The end waits for the device.
  void begin_step();
  void end_step();

  /// As JSON: how many steps took how many seconds together, and in these the time and calls of each operation in each
  /// part of the model, longest first; and what memory was for when the device held most. Throws Error where it
  /// cannot be written.
  void write(const std::filesystem::path& path) const;

 private:
  using Clock = std::chrono::steady_clock;

  const Device& device_;
  bool is_first_ = true;
  Clock::time_point start_;
  std::int64_t steps_ = 0;
  double seconds_ = 0;
};

}  // namespace mtp::train
