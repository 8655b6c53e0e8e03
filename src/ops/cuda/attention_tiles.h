#pragma once

#include <algorithm>

#include "mtp/ops/attention.h"

namespace mtp::ops::cuda {

// Which keys and queries the kernels of attention visit. Plain C++, so that a test without a GPU covers it; of 32 bits,
// since a kernel has few registers.

/// Rows of a sequence.
struct Range {
  int begin, end;

  constexpr int size() const { return end - begin; }
  /// The part from `from` on, at most `rows` of them.
  constexpr Range part(int from, int rows) const { return {from, std::min(from + rows, end)}; }
};

/// A sequence's mask, for its length: query t sees the keys slope · t + first … slope · t + end - 1 that there are, and
/// those up to the end of its block.
struct Band {
  int slope, first, end, length;
  const std::int64_t* blocks;  // as the mask has them

  constexpr Band(const AttentionMask& mask, int of_length)
      : slope(0), first(0), end(of_length), length(of_length), blocks(mask.blocks) {
    const int offset = static_cast<int>(mask.offset);
    // A window that is longer than the sequence and the offset is none.
    const int window = static_cast<int>(std::min<std::int64_t>(mask.window, std::int64_t{length} + offset));
    if (mask.kind == AttentionMask::Kind::causal) {
      slope = 1;
      first = window > 0 ? offset - window + 1 : -length;
      end = 1;
    } else if (mask.kind == AttentionMask::Kind::mirrored) {
      slope = -1;
      first = length - 1 - window;
      end = length + window;
    }
  }

  constexpr bool sees(int query, int key) const {
    const int place = key - slope * query;
    return place >= first && key < length && query < length &&
           (place < end || (blocks != nullptr && key < block_end(query)));
  }

  /// Keys that any of the queries sees; empty where none does.
  constexpr Range keys_of(Range queries) const {
    const int lowest = slope * (slope < 0 ? queries.end - 1 : queries.begin);
    const int highest = slope * (slope < 0 ? queries.begin : queries.end - 1);
    return within(lowest + first, blocks != nullptr ? block_end(queries.end - 1) : highest + end);
  }

  /// Queries that see any of the keys; empty where none does.
  constexpr Range queries_of(Range keys) const {
    if (slope > 0) return within(blocks != nullptr ? block_begin(keys.begin) : keys.begin - end + 1, keys.end - first);
    if (slope < 0) return within(first - keys.end + 1, end - keys.begin);
    return {0, length};
  }

  /// True if there are all of the queries and keys and each of the ones sees each of the others.
  constexpr bool all_see_all(Range queries, Range keys) const {
    const int lowest = slope * (slope < 0 ? queries.end - 1 : queries.begin);
    const int highest = slope * (slope < 0 ? queries.begin : queries.end - 1);
    return queries.end <= length && keys.end <= length && highest + first <= keys.begin &&
           (blocks != nullptr ? block_end(queries.begin) : lowest + end) >= keys.end;
  }

 private:
  constexpr int block_begin(int row) const { return static_cast<int>(blocks[2 * row]); }
  constexpr int block_end(int row) const { return static_cast<int>(blocks[2 * row + 1]); }
  constexpr Range within(int from, int to) const {
    const int begin = std::clamp(from, 0, length);
    return {begin, std::clamp(to, begin, length)};
  }
};

}  // namespace mtp::ops::cuda
