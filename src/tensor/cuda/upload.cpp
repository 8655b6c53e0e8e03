#include "upload.h"

#include <algorithm>
#include <cstring>

#include "context.h"

namespace mtp {

Upload::Upload() {
  void* memory = nullptr;
  check_cuda(cudaMallocHost(&memory, slots * slot_bytes), "pinned host memory");
  memory_ = static_cast<std::byte*>(memory);
}

Upload::~Upload() { cudaFreeHost(memory_); }

void Upload::copy(CudaContext& context, const std::byte* from, std::byte* to, std::size_t bytes) {
  for (std::size_t begin = 0; begin < bytes; begin += slot_bytes) {
    const std::size_t part = std::min(slot_bytes, bytes - begin);
    std::byte* const slot = memory_ + next_ * slot_bytes;
    context.wait(copied_[next_]);
    std::memcpy(slot, from + begin, part);
    check_cuda(cudaMemcpyAsync(to + begin, slot, part, cudaMemcpyHostToDevice, context.stream()),
               "a copy from the host");
    copied_[next_].record(context.stream());
    next_ = (next_ + 1) % slots;
  }
}

}  // namespace mtp
