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

  float inverse[most_pairs] = {};
};

}  // namespace mtp::ops::cuda
