#pragma once

#include <algorithm>

#include "elements.cuh"
#include "mtp/ops/rope.h"

namespace mtp::ops::cuda {

/// An argument of kernels, so that nothing needs to be copied to the device first.
struct Frequencies {
  static constexpr std::size_t most_pairs = 512;

  explicit Frequencies(const Rope& rope) {
    MTP_ASSERT(rope.inverse_frequencies.size() <= most_pairs);
    std::copy(rope.inverse_frequencies.begin(), rope.inverse_frequencies.end(), inverse);
  }

  /// Turns n neighbouring pairs (low, high) of x, from `pair` on, by a position; `sign` -1 turns back. Sines and
  /// cosines are rounded to x's type.
  template <int n>
  __device__ void rotate(Pack<n>& low, Pack<n>& high, std::int64_t pair, std::int64_t position, float sign,
                         const Elements& x) const {
#pragma unroll
    for (int j = 0; j < n; ++j) {
      float sine, cosine;
      sincosf(static_cast<float>(position) * inverse[pair + j], &sine, &cosine);
      sine = sign * x.rounded(sine);
      cosine = x.rounded(cosine);
      const float a = low.values[j], b = high.values[j];
      low.values[j] = a * cosine - b * sine;
      high.values[j] = b * cosine + a * sine;
    }
  }

  float inverse[most_pairs] = {};
};

}  // namespace mtp::ops::cuda
