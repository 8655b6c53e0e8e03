#include "mtp/tensor/device.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../arena.h"
#include "../profile_clock.h"
#include "context.h"
#include "mtp/tensor/cuda_devices.h"
#include "mtp/tensor/profile.h"

namespace mtp {

namespace {

/// Loads every kernel with the device. Else the first launch of one loads it, which may wait for the device: in vain,
/// beside a collective that waits for a rank that is gone. Done before there are threads, and before the first call of
/// the runtime, which reads it.
[[maybe_unused]] const bool loads_all_kernels = setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/0) == 0;

/// "13.0"
std::string dotted(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string runtime_version() {
  int version = 0;
  check_cuda(cudaRuntimeGetVersion(&version), "its runtime's version");
  return "CUDA runtime " + dotted(version);
}

std::string driver_version() {
  int version = 0;
  check_cuda(cudaDriverGetVersion(&version), "its driver's version");
  return "driver " + dotted(version);
}

}  // namespace

bool is_built_with_cuda() { return true; }

CudaDevices find_cuda_devices() {
  int count = 0;
  // Without a driver this is cudaErrorInsufficientDriver and leaves the count as it was.
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return {0, cudaGetErrorString(status)};
  return {count, runtime_version()};
}

namespace {

/// What an allocation gave; null where there was not enough.
std::byte* allocated(cudaError_t status, void* block) {
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // else the next launch would report it
    return nullptr;
  }
  check_cuda(status, "memory");
  return static_cast<std::byte*>(block);
}

class PinnedMemory : public Memory {
 public:
  Range reserve(std::size_t bytes) override {
    void* block = nullptr;
    const cudaError_t status = cudaMallocHost(&block, bytes);
    return {allocated(status, block), bytes, bytes};
  }
  bool back(Range&, std::size_t) override { return false; }
  void release(const Range& range) override { cudaFreeHost(range.begin); }
  std::string_view remedy() const override {
    return "this is pinned memory of the host: use more ranks or optimizer.moments bf16, or raise its limit (ulimit "
           "-l)";
  }
  void set_zero(void* to, std::size_t bytes) override { std::memset(to, 0, bytes); }
  void copy(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_from_host(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_to_host(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
};

}  // namespace

Device Device::cuda(int index) { return Device(std::make_shared<CudaContext>(index)); }

Device::Device(std::shared_ptr<CudaContext> context)
    : kind_(Kind::cuda),
      threads_(1),
      context_(std::move(context)),
      arena_(std::make_shared<Arena>(context_)),
      host_arena_(std::make_shared<Arena>(std::make_shared<PinnedMemory>())),
      profile_(std::make_unique<Profile>(make_gpu_clock(*context_))) {}

std::string Device::name() const {
  return context_ == nullptr ? "cpu" : "cuda " + std::string(context_->properties().name);
}

std::string Device::description() const {
  if (context_ == nullptr) return name();
  return fmt::format("{}, {} multiprocessors, {}, {}", name(), context_->multiprocessors(), driver_version(),
                     runtime_version());
}

std::string Device::identity() const {
  std::string identity;
  for (const char byte : context_->properties().uuid.bytes)
    identity += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return identity;
}

std::int64_t Device::memory_size() const { return static_cast<std::int64_t>(context_->properties().totalGlobalMem); }

void Device::on_wait(Wait wait) { context_->on_wait(std::move(wait)); }

void check_cuda(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) device = -1;
  throw Error("GPU {}: {}: {} ({})", device, what, cudaGetErrorString(status), cudaGetErrorName(status));
}

CudaEvent::CudaEvent(Timing timing) {
  const unsigned flags = timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming;
  check_cuda(cudaEventCreateWithFlags(&event_, flags), "an event");
}

void CudaEvent::record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "an event"); }

bool CudaEvent::is_done() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status != cudaErrorNotReady) check_cuda(status, "what was queued before");
  cudaGetLastError();  // else the next launch would report that it is not done
  return status == cudaSuccess;
}

double CudaEvent::seconds_since(const CudaEvent& earlier) const {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "the time between events");
  return static_cast<double>(milliseconds) * 1e-3;
}

void CudaEvent::hold_back(cudaStream_t stream) const { check_cuda(cudaStreamWaitEvent(stream, event_), "an event"); }

namespace {

int used(int index) {
  check_cuda(cudaSetDevice(index), "to use it");
  return index;
}

}  // namespace

CudaContext::CudaContext(int index) : index_(used(index)) {
  check_cuda(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, index), "its size");
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  virtual_memory_ = VirtualMemory::of_device(index);
}

CudaContext::~CudaContext() {
  // Nothing can be done about an error here, and the operation that caused it has been told.
  cudaStreamSynchronize(stream_);
  products_.reset();
  cudaStreamDestroy(stream_);
}

cudaDeviceProp CudaContext::properties() const {
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, index_), "its properties");
  return properties;
}

void CudaContext::wait(const CudaEvent& event) const {
  const auto is_done = [&] { return event.is_done(); };
  if (wait_) return wait_(is_done);
  while (!is_done()) sched_yield();
}

Memory::Range CudaContext::reserve(std::size_t bytes) {
  if (virtual_memory_) return virtual_memory_->reserve(std::max(bytes, properties().totalGlobalMem));
  void* block = nullptr;
  const std::size_t size = std::max(bytes, std::size_t{256} << 20);
  const cudaError_t status = cudaMalloc(&block, size);
  return {allocated(status, block), size, size};
}

bool CudaContext::back(Range& range, std::size_t bytes) {
  return virtual_memory_ && virtual_memory_->back(range, bytes);
}

void CudaContext::release(const Range& range) {
  if (!virtual_memory_) return static_cast<void>(cudaFree(range.begin));
  cudaStreamSynchronize(stream_);  // cudaFree does so by itself
  virtual_memory_->release(range);
}

void CudaContext::set_zero(void* to, std::size_t bytes) {
  check_cuda(cudaMemsetAsync(to, 0, bytes, stream_), "a fill");
}

void CudaContext::copy(const void* from, void* to, std::size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "a copy");
}

void CudaContext::copy_from_host(const void* from, void* to, std::size_t bytes) {
  upload_.copy(*this, static_cast<const std::byte*>(from), static_cast<std::byte*>(to), bytes);
}

// The runtime would wait for the stream, with no end where another rank never comes.
void CudaContext::copy_to_host(const void* from, void* to, std::size_t bytes) {
  to_be_copied_.record(stream_);
  wait(to_be_copied_);
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "a copy to the host");
  check_cuda(cudaStreamSynchronize(stream_), "what was to be copied to the host");
}

}  // namespace mtp
