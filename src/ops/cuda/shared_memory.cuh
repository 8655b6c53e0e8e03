#pragma once

#include <cstddef>

#include <cuda_runtime.h>

namespace mtp::ops::cuda {

/// The block's dynamic shared memory.
template <typename T>
__device__ T* shared_memory() {
#ifdef MTP_CUDA_EMULATION
  return reinterpret_cast<T*>(emulation::dynamic_shared());
#else
  extern __shared__ __align__(16) std::byte memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

}  // namespace mtp::ops::cuda
