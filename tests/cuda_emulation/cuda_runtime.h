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

#include "streams.h"

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
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim;

inline const char* cudaGetErrorString(cudaError_t) { return "emulated CUDA"; }
inline const char* cudaGetErrorName(cudaError_t) { return "emulated CUDA"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace emulation {

/// Runs all blocks of a grid. Ends the program with a message where threads of a block wait for each other in vain.
void run(dim3 grid, dim3 block, std::size_t shared_bytes, Order order, const std::function<void()>& thread);
/// The dynamic shared memory of the block that runs.
std::byte* dynamic_shared();

void wait_for_block();
/// Gives `value` to the other lanes of the warp and returns what all 32 gave.
const std::uint64_t* exchange(std::uint64_t value);
unsigned lane();

}  // namespace emulation

inline cudaError_t cudaGetDeviceCount(int* count) { return *count = emulation::devices, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 0, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = emulation::current_device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulation::devices) return cudaErrorInvalidValue;
  emulation::current_device = device;
  return cudaSuccess;
}
struct cudaDeviceProp {
  char name[256];
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"emulated GPU"};
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
  config->stream->give([=, shared_bytes = config->dynamicSmemBytes, order = config->stream->order] {
    emulation::run(grid, block, shared_bytes, order, [&] { kernel(arguments...); });
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
