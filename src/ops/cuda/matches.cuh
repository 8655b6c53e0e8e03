#pragma once

#include "reduce.cuh"

namespace mtp::ops::cuda {

/// Calls body(i) for every begin ≤ i < end with is_match(i), in this order and with all `threads` of the block, which
/// test as many i at once.
template <int threads, typename IsMatch, typename Body>
__device__ void for_each_match(std::int64_t begin, std::int64_t end, const IsMatch& is_match, const Body& body) {
  constexpr int warps = threads / warp_size;
  __shared__ int found[threads], found_by_warp[warps];
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
  for (std::int64_t first = begin; first < end; first += threads) {
    const std::int64_t i = first + threadIdx.x;
    const bool matches = i < end && is_match(i);
    const unsigned of_warp = __ballot_sync(whole_warp, matches);
    if (lane == 0) found_by_warp[warp] = __popc(of_warp);
    __syncthreads();
    int place = __popc(of_warp & ((1u << lane) - 1)), count = 0;
    for (int other = 0; other < warps; ++other) {
      if (other < warp) place += found_by_warp[other];
      count += found_by_warp[other];
    }
    if (matches) found[place] = static_cast<int>(threadIdx.x);
    __syncthreads();
    for (int k = 0; k < count; ++k) body(first + found[k]);
    __syncthreads();
  }
}

}  // namespace mtp::ops::cuda
