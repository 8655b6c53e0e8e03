#pragma once

#include "mtp/ops/cross_entropy.h"

namespace mtp::ops {

// What the families that project rows onto the vocabulary demand.

/// x [T, H], w [V, H], per_row [T]
inline void check_projection(const Tensor& x, const Tensor& w, const Tensor& per_row) {
  MTP_ASSERT(x.size(1) == w.size(1) && per_row.elements() == x.size(0) && per_row.dtype() == DType::i64);
}

/// w [V, H]
inline void check_masked_head(const MaskedHead& head, const Tensor& w) {
  const std::int64_t centroids = head.centroids.size(0);
  MTP_ASSERT(head.top_k > 0 && head.top_k <= centroids && head.centroids.size(1) == w.size(1));
  MTP_ASSERT(w.size(0) % centroids == 0 && head.ordering.elements() == w.size(0));
}

}  // namespace mtp::ops
