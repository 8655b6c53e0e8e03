#include <cuda_runtime.h>

#include <string>

#include "mtp/ops/cuda_devices.h"

namespace mtp::ops {

CudaDevices find_cuda_devices() {
  int count = 0;
  // Without a driver this is cudaErrorInsufficientDriver and leaves the count as it was.
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return {0, cudaGetErrorString(status)};
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return {count, "CUDA runtime " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10)};
}

}  // namespace mtp::ops
