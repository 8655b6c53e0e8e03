#pragma once

#include <cstdint>

#include "mtp/ops/attention.h"

namespace mtp::bench {

/// FLOPs of a product of [rows, in] with [in, out], two for a multiplication and an addition.
double product_flops(std::int64_t rows, std::int64_t in, std::int64_t out);

/// Pairs of a query and a key that it sees, in a sequence of so many.
double visible_pairs(const ops::AttentionMask& mask, std::int64_t length);

}  // namespace mtp::bench
