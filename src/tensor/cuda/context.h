#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <optional>
#include <string_view>

#include "../memory.h"
#include "event.h"
#include "mtp/core/error.h"
#include "mtp/tensor/device.h"
#include "upload.h"
#include "virtual_memory.h"

namespace mtp {

/// Throws where a call of the CUDA runtime failed; `what` says what it was for.
void check_cuda(cudaError_t status, std::string_view what);

/// One GPU and the stream in whose order everything on it happens.
class CudaContext : public Memory {
 public:
  explicit CudaContext(int index);
  ~CudaContext() override;
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  cudaDeviceProp properties() const;
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }

  /// Every wait of the host for this GPU goes through here, and never into the runtime.
  void wait(const CudaEvent& event) const;
  void on_wait(Device::Wait wait) { wait_ = std::move(wait); }

  /// What the library of matrix products keeps for this device; `ops` makes it with its first product.
  std::shared_ptr<void>& products() { return products_; }

  Range reserve(std::size_t bytes) override;
  bool back(Range& range, std::size_t bytes) override;
  void release(const Range& range) override;
  void set_zero(void* to, std::size_t bytes) override;
  void copy(const void* from, void* to, std::size_t bytes) override;
  void copy_from_host(const void* from, void* to, std::size_t bytes) override;
  void copy_to_host(const void* from, void* to, std::size_t bytes) override;

 private:
  int index_ = 0;
  cudaStream_t stream_ = nullptr;
  int multiprocessors_ = 0;
  std::optional<VirtualMemory> virtual_memory_;  // unless this GPU or its driver has none
  Device::Wait wait_;
  CudaEvent to_be_copied_;
  Upload upload_;
  std::shared_ptr<void> products_;
};

/// Queues a kernel; a device that counts runs none. `shared_bytes` is the size of its dynamic shared memory.
template <typename... Parameters, typename... Arguments>
void launch(const Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || device.is_counting()) return;
  constexpr std::size_t without_asking = 48 << 10;
  if (shared_bytes > without_asking)
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
        "the shared memory of a kernel");
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = device.context().stream();
  check_cuda(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "the start of a kernel");
}

}  // namespace mtp
