#include "support/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace mtp::bench {

namespace {

using Clock = std::chrono::steady_clock;

// Ranks wait for each other before and after what is timed, which is short beside a millisecond; the host waits for a
// GPU, which takes some 20 µs.
constexpr double least_time = 1e-3, least_time_on_gpu = 1e-2;
constexpr double most_times = 1000;

}  // namespace

void wait_for(Device& device) {
  if (device.kind() == Device::Kind::cpu) return;
  float last = 0;
  device.to_host(device.zeros({1}), std::span(&last, 1));
}

double seconds_of(Device& device, const std::function<void()>& run, std::int64_t times) {
  wait_for(device);
  const auto start = Clock::now();
  for (std::int64_t i = 0; i < times; ++i) run();
  wait_for(device);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::int64_t times_at_once(const Device& device, double seconds) {
  const double least = device.kind() == Device::Kind::cuda ? least_time_on_gpu : least_time;
  return static_cast<std::int64_t>(std::clamp(std::ceil(least / seconds), 1.0, most_times));
}

}  // namespace mtp::bench
