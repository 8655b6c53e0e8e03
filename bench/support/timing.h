#pragma once

#include <cstdint>
#include <functional>

#include "mtp/tensor/device.h"

namespace mtp::bench {

/// Returns when a GPU has done all that was queued; a CPU has nothing queued.
void wait_for(Device& device);

/// Seconds of so many runs one after another, from a device without work until all of theirs is done: what it takes to
/// start work on a GPU is hidden behind the work before.
double seconds_of(Device& device, const std::function<void()>& run, std::int64_t times);

/// How many runs of so many seconds to time at once, so that waiting for ranks and a GPU takes little of a timing.
std::int64_t times_at_once(const Device& device, double seconds);

}  // namespace mtp::bench
