#pragma once

// The part of CUDA that the kernels and their host code use, carried out by the CPU: compiled with this header in place
// of CUDA's own, the very same sources run where there is no GPU. A block's threads are fibers that take turns at
// barriers; device memory is the host's. `emulation.cpp` says how faults are found.

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "streams.h"

#include "mma.h"

#define MTP_CUDA_EMULATION
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

enum cudaError_t {
  cudaSuccess,
  cudaErrorMemoryAllocation,
  cudaErrorInvalidValue,
  cudaErrorNoDevice,
  cudaErrorNotReady,
  cudaErrorStreamCaptureUnsupported,
  cudaErrorStreamCaptureInvalidated
};
inline const char* cudaGetErrorString(cudaError_t) { return "emulated CUDA"; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulated CUDA"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

#include "graphs.h"

namespace emulation {

/// What EMULATED_<name> in the environment says in place of `otherwise`: ranks may differ.
std::string property(const char* name, const char* otherwise);

/// Every emulated device runs the threads of a block, and the blocks of a grid, in an order that the next two
/// do not have.
enum class Order { forward, backward, shuffled };
inline constexpr int devices = 16;
inline Order order_of_device(int device) { return static_cast<Order>(device % 3); }

/// Those that CUDA_VISIBLE_DEVICES names.
std::vector<int> visible_devices();

inline int current_device = 0;

/// Runs all blocks of a grid. Ends the program with a message where threads of a block wait for each other in vain.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, Order order, const std::function<void()>& thread);
/// The dynamic shared memory of the block that runs.
std::byte* dynamic_shared();

void wait_for_block();
/// Gives `value` to the other lanes of the warp and returns what all 32 gave.
const std::uint64_t* exchange(std::uint64_t value);
unsigned lane();

/// That of the device that runs.
Order order();
/// Ends the program with a message that names the block.
[[noreturn]] void fail(const char* what);

}  // namespace emulation

using cudaStream_t = emulation::Stream*;
inline constexpr unsigned cudaStreamNonBlocking = 1;

inline cudaError_t cudaGetDeviceCount(int* count) {
  const auto visible = static_cast<int>(emulation::visible_devices().size());
  return visible == 0 ? cudaErrorNoDevice : (*count = visible, cudaSuccess);
}
inline cudaError_t cudaRuntimeGetVersion(int* version) {
  return *version = std::stoi(emulation::property("RUNTIME", "13000")), cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
  return *version = std::stoi(emulation::property("DRIVER", "13000")), cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = emulation::current_device, cudaSuccess; }
/// Only after it was said that all kernels are to be loaded.
inline cudaError_t cudaSetDevice(int device) {
  if (std::getenv("CUDA_MODULE_LOADING") == nullptr) return cudaErrorInvalidValue;
  if (device < 0 || device >= static_cast<int>(emulation::visible_devices().size())) return cudaErrorInvalidValue;
  emulation::current_device = device;
  return cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = std::stoi(emulation::property("MULTIPROCESSORS", "2")), cudaSuccess;
}
/// Lower numbers come first.
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  return *lowest = 0, *highest = emulation::highest_priority, cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int priority) {
  *stream = emulation::make_stream(emulation::order_of_device(emulation::visible_devices()[emulation::current_device]),
                                   priority);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return emulation::destroy(stream), cudaSuccess; }

using cudaEvent_t = emulation::Event*;
inline constexpr unsigned cudaEventDefault = 0, cudaEventDisableTiming = 2;
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return *event = new emulation::Event{flags == cudaEventDefault}, cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  event->has_happened = std::make_shared<bool>(false);
  event->milliseconds = std::make_shared<double>(0);
  emulation::enqueue(stream, [happened = event->has_happened, milliseconds = event->milliseconds] {
    *milliseconds =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
    return *happened = true;
  });
  return cudaSuccess;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->is_timed || !end->is_timed) return cudaErrorInvalidValue;
  if (!*begin->has_happened || !*end->has_happened) return cudaErrorNotReady;
  return *milliseconds = static_cast<float>(*end->milliseconds - *begin->milliseconds), cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (!*event->has_happened) emulation::progress();
  return *event->has_happened ? cudaSuccess : cudaErrorNotReady;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event) {
  emulation::enqueue(stream, [happened = event->has_happened] { return *happened; });
  return cudaSuccess;
}

struct cudaUUID_t {
  char bytes[16];
};
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  std::size_t totalGlobalMem;
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {{}, {}, std::size_t{1} << 30};
  emulation::property("NAME", "emulated GPU").copy(properties->name, sizeof properties->name - 1);
  properties->uuid.bytes[0] = static_cast<char>(emulation::visible_devices()[device]);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  return emulation::finish(stream), cudaSuccess;
}

/// Fresh memory is full of NaN.
inline cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  *block = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (*block == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*block, 0xFF, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* block) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  return emulation::finish_all(), std::free(block), cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** block, std::size_t bytes) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  *block = emulation::allocate_pinned(bytes);
  return *block != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeHost(void* block) { return emulation::free_pinned(block), cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  emulation::enqueue(stream, [=] {
    std::memset(to, value, bytes);
    return true;
  });
  return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  const bool from_host = kind == cudaMemcpyHostToDevice, to_host = kind == cudaMemcpyDeviceToHost;
  if ((from_host || to_host) && emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  emulation::copy(to, from, bytes, from_host, to_host, stream);
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
/// What a block of compute capability 8.0 may have; 9.0 allows more.
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= 163 << 10 ? cudaSuccess : cudaErrorInvalidValue;
}
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  const dim3 block = config->blockDim, grid = config->gridDim;
  if (block.x * block.y * block.z > 1024 || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidValue;
  emulation::enqueue(config->stream, [=, shared_bytes = config->dynamicSmemBytes, order = config->stream->order] {
    emulation::run(grid, block, shared_bytes, order, [&] { kernel(arguments...); });
    return true;
  });
  return cudaSuccess;
}

inline void __syncthreads() { emulation::wait_for_block(); }
[[noreturn]] inline void __trap() { std::abort(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const std::uint64_t* all = emulation::exchange(bits);
  std::memcpy(&value, &all[emulation::lane() ^ static_cast<unsigned>(distance)], sizeof value);
  return value;
}
inline unsigned __ballot_sync(unsigned, bool value) {
  const std::uint64_t* all = emulation::exchange(value);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(all[lane]) << lane;
  return bits;
}
template <typename T>
T __ldcs(const T* from) {
  return *from;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline float __uint_as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline std::uint32_t __float_as_uint(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
