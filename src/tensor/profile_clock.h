#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace mtp {

class CudaContext;

/// Times on a device, by marks between what is queued.
class ProfileClock {
 public:
  virtual ~ProfileClock() = default;
  /// Numbers the marks 0, 1, … since `clear`.
  virtual std::size_t mark() = 0;
  /// Waits until the device has come to both.
  virtual double seconds_between(std::size_t begin, std::size_t end) const = 0;
  virtual void clear() = 0;
  /// Whether profilers see operations and parts.
  virtual bool shows_ranges() const { return true; }
};

std::unique_ptr<ProfileClock> make_gpu_clock(CudaContext& context);

// NVTX ranges. Those that are pushed end in the opposite order. Cheap where no profiler is there, nothing in a build
// without CUDA.

void push_range(const char* name);
void pop_range();
std::uint64_t start_range(const char* name);
void end_range(std::uint64_t range);

}  // namespace mtp
