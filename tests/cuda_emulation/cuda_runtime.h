#pragma once

// The part of CUDA that the kernels and their host code use, carried out by the CPU: compiled with this header in place
// of CUDA's own, the very same sources run where there is no GPU. A block's threads are fibers that take turns at
// barriers; device memory is the host's. `emulation.cpp` says how faults are found.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define MTP_CUDA_EMULATION
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim;

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorInvalidValue };
inline const char* cudaGetErrorString(cudaError_t) { return "emulated CUDA"; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulated CUDA"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulation {

/// Every emulated device runs the threads of a block, and the blocks of a grid, in an order of its own.
enum class Order { forward, backward, shuffled };
inline constexpr int devices = 3;

struct Stream {
  Order order;
};
inline Stream streams[devices] = {{Order::forward}, {Order::backward}, {Order::shuffled}};
inline int current_device = 0;

/// Runs all blocks of a grid. Ends the program with a message where threads of a block wait for each other in vain.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, Order order, const std::function<void()>& thread);
/// The dynamic shared memory of the block that runs.
std::byte* dynamic_shared();

void wait_for_block();
/// Gives `value` to the other lanes of the warp and returns what all 32 gave.
const std::uint64_t* exchange(std::uint64_t value);
unsigned lane();

}  // namespace emulation

using cudaStream_t = emulation::Stream*;
inline constexpr unsigned cudaStreamNonBlocking = 1;

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = emulation::devices, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = emulation::current_device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulation::devices) return cudaErrorInvalidValue;
  emulation::current_device = device;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = &emulation::streams[emulation::current_device];
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

struct cudaDeviceProp {
  char name[256];
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"emulated GPU"};
  return cudaSuccess;
}

/// Fresh memory is full of NaN.
inline cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  *block = std::aligned_alloc(64, bytes);
  if (*block == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*block, 0xFF, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* block) { return std::free(block), cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  return std::memset(to, value, bytes), cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
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
                               Arguments&&... arguments) {
  const dim3 block = config->blockDim, grid = config->gridDim;
  if (block.x * block.y * block.z > 1024 || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidValue;
  emulation::run(grid, block, config->dynamicSmemBytes, config->stream->order, [&] { kernel(arguments...); });
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
