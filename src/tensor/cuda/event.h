#pragma once

#include <cuda_runtime.h>

namespace mtp {

/// A place in a stream's order.
class CudaEvent {
 public:
  enum class Timing { off, on };

  explicit CudaEvent(Timing timing = Timing::off);
  ~CudaEvent() { cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  /// The place is behind all that was queued on `stream` so far.
  void record(cudaStream_t stream);
  /// Whether everything before the place has happened. True before the first `record`.
  bool is_done() const;
  /// What is queued on `stream` from now on happens after everything before the place.
  void hold_back(cudaStream_t stream) const;
  /// The device's time between two places that it has passed, both with timing.
  double seconds_since(const CudaEvent& earlier) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace mtp
