#include "mtp/tensor/device.h"

#include "../arena.h"
#include "context.h"
#include "mtp/tensor/cuda_devices.h"

namespace mtp {

CudaDevices find_cuda_devices() {
  int count = 0;
  // Without a driver this is cudaErrorInsufficientDriver and leaves the count as it was.
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return {0, cudaGetErrorString(status)};
  int version = 0;
  check_cuda(cudaRuntimeGetVersion(&version), "its version");
  return {count, fmt::format("CUDA runtime {}.{}", version / 1000, version % 1000 / 10)};
}

Device Device::cuda(int index) { return Device(std::make_shared<CudaContext>(index)); }

Device::Device(std::shared_ptr<CudaContext> context)
    : threads_(1), context_(std::move(context)), arena_(std::make_shared<Arena>(context_)) {}

std::string Device::name() const {
  return context_ == nullptr ? "cpu" : "cuda " + std::string(context_->properties().name);
}

void check_cuda(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) device = -1;
  throw Error("GPU {}: {}: {} ({})", device, what, cudaGetErrorString(status), cudaGetErrorName(status));
}

namespace {

int used(int index) {
  check_cuda(cudaSetDevice(index), "to use it");
  return index;
}

}  // namespace

CudaContext::CudaContext(int index) : index_(used(index)) {
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
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

}  // namespace

std::byte* CudaContext::allocate(std::size_t bytes) {
  void* block = nullptr;
  const cudaError_t status = cudaMalloc(&block, bytes);
  return allocated(status, block);
}

void CudaContext::free(std::byte* block) { cudaFree(block); }

std::byte* CudaContext::allocate_on_host(std::size_t bytes) {
  void* block = nullptr;
  const cudaError_t status = cudaMallocHost(&block, bytes);
  return allocated(status, block);
}

void CudaContext::free_on_host(std::byte* block) { cudaFreeHost(block); }

void CudaContext::set_zero(void* to, std::size_t bytes) {
  check_cuda(cudaMemsetAsync(to, 0, bytes, stream_), "a fill");
}

void CudaContext::copy(const void* from, void* to, std::size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "a copy");
}

// From pageable memory: returns when the runtime has read it.
void CudaContext::copy_from_host(const void* from, void* to, std::size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "a copy from the host");
}

void CudaContext::copy_to_host(const void* from, void* to, std::size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "a copy to the host");
  check_cuda(cudaStreamSynchronize(stream_), "what was to be copied to the host");
}

}  // namespace mtp
