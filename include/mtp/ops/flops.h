#pragma once

#include <cstdint>

#include "mtp/ops/attention.h"

namespace mtp::ops {

// FLOPs of operations: two for a multiplication and an addition of a product; nothing else counts.

/// A product of [rows, in] with [in, out].
double product_flops(std::int64_t rows, std::int64_t in, std::int64_t out);

/// Pairs of a query and a key that it sees, in a sequence of so many rows. The mask's blocks must be in the host's
/// memory.
double visible_pairs(const AttentionMask& mask, std::int64_t length);

}  // namespace mtp::ops
