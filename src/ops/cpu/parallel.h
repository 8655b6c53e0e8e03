#pragma once

#include <algorithm>
#include <cstdint>

#include "mtp/tensor/device.h"

namespace mtp::ops::cpu {

/// Calls body(i) for 0 ≤ i < n on the device's threads. What a call computes must not depend on which thread runs it.
template <typename Body>
void parallel_for(const Device& device, std::int64_t n, const Body& body) {
  device.threads().run(n, body);
}

/// Calls body(begin, end) for pieces of `piece` consecutive elements of 0 … n - 1.
template <typename Body>
void parallel_pieces(const Device& device, std::int64_t n, std::int64_t piece, const Body& body) {
  parallel_for(device, (n + piece - 1) / piece, [&](std::int64_t i) {
    const std::int64_t begin = i * piece;
    body(begin, begin + piece < n ? begin + piece : n);
  });
}

struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

/// body(part) for consecutive parts of `range`.
template <typename Body>
void for_each_part(Range range, std::int64_t part, const Body& body) {
  for (std::int64_t i = range.begin; i < range.end; i += part) body(Range{i, std::min(i + part, range.end)});
}

}  // namespace mtp::ops::cpu
