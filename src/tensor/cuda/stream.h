#pragma once

#include <cuda_runtime.h>

#include "context.h"

namespace mtp {

/// A point in a stream's work, which other streams can wait for.
class CudaEvent {
 public:
  CudaEvent() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event"); }
  ~CudaEvent() { cudaEventDestroy(event_); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  /// Is reached when what `stream` has been given so far is done.
  void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "an event"); }
  /// What `stream` is given from now on begins once the event, as it was recorded last, is reached.
  void hold_back(cudaStream_t stream) const { check_cuda(cudaStreamWaitEvent(stream, event_), "waiting for an event"); }

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream beside the device's own. What it has been given is done although it is gone.
class CudaStream {
 public:
  CudaStream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }
  ~CudaStream() { cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace mtp
