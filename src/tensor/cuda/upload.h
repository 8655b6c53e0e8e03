#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "event.h"

namespace mtp {

class CudaContext;

/// Pinned host memory through which the host's data go to a GPU. From other memory the runtime may wait for everything
/// in the stream before it copies; so the host waits only where this memory has been used once around and the GPU has
/// not come so far.
class Upload {
 public:
  Upload();
  ~Upload();
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;

  /// Has read all of `from` when it returns.
  void copy(CudaContext& context, const std::byte* from, std::byte* to, std::size_t bytes);

 private:
  static constexpr std::size_t slot_bytes = 256 << 10, slots = 64;

  std::byte* memory_ = nullptr;
  std::array<CudaEvent, slots> copied_;  // out of each slot
  std::size_t next_ = 0;
};

}  // namespace mtp
