#pragma once

#include <cstdint>

#include "elements.cuh"

namespace mtp::ops::cuda {

// Reductions in a fixed order; every thread gets the result.

inline constexpr int warp_size = 32;
inline constexpr unsigned whole_warp = 0xFFFFFFFFu;

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
/// A NaN is passed over.
struct Largest {
  __device__ float operator()(float a, float b) const { return b > a ? b : a; }
};
struct Least {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

template <typename T, typename Combine>
__device__ T reduce_warp(T value, Combine combine) {
#pragma unroll
  for (int distance = warp_size / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(whole_warp, value, distance));
  return value;
}

/// Over the threads of a block of one dimension, a multiple of 32.
template <typename T, typename Combine>
__device__ T reduce_block(T value, Combine combine) {
  __shared__ T of_warp[warp_size];
  value = reduce_warp(value, combine);
  const int warps = static_cast<int>(blockDim.x) / warp_size;
  if (threadIdx.x % warp_size == 0) of_warp[threadIdx.x / warp_size] = value;
  __syncthreads();
  value = of_warp[0];
  for (int warp = 1; warp < warps; ++warp) value = combine(value, of_warp[warp]);
  __syncthreads();  // before the next reduction overwrites it
  return value;
}

}  // namespace mtp::ops::cuda
