#pragma once

#include <cuda_runtime.h>

#include "context.h"
#include "event.h"

namespace mtp {

/// A stream beside the device's own. What it has been given is done although it is gone.
class CudaStream {
 public:
  /// Blocks of a stream of the highest priority come first where those of several wait for a multiprocessor.
  enum class Priority { usual, highest };

  explicit CudaStream(Priority priority = Priority::usual) {
    int lowest = 0, highest = 0;
    check_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "the priorities of streams");
    const int number = priority == Priority::highest ? highest : lowest;  // that of the device's own
    check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, number), "a stream");
  }
  ~CudaStream() { cudaStreamDestroy(stream_); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace mtp
