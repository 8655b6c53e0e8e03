#pragma once

#include <algorithm>
#include <cstdint>

namespace mtp::ops {

/// How many rows' logits [rows, V] the losses store at a time. More rows share one pass over the weight; more memory is
/// what they cost. At most 256 MiB of logits.
inline std::int64_t rows_of_chunk(std::int64_t vocabulary) {
  constexpr std::int64_t most_rows = 256, most_logits = std::int64_t{1} << 26;
  return std::clamp<std::int64_t>(most_logits / vocabulary, 1, most_rows);
}

}  // namespace mtp::ops
