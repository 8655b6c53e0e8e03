#pragma once

#include <algorithm>
#include <cstdint>

namespace mtp::ops {

/// How many rows' logits [rows, V] a loss stores at a time at the most. More rows share one pass over the weight and
/// its gradient; more memory is what they cost.
struct Chunk {
  std::int64_t rows, logits;

  std::int64_t rows_of(std::int64_t vocabulary) const { return std::clamp<std::int64_t>(logits / vocabulary, 1, rows); }
};

}  // namespace mtp::ops
