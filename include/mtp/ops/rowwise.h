#pragma once

#include "mtp/ops/attention.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

// What decoding computes with: the next few rows of one sequence, whose speed is that of reading all weights once. A
// row's bits depend on this row alone, not on how many are computed together (nor on the number of threads): whatever
// the number of rows, a row's sums run over the same terms in the same order. Products of large matrices, such as those
// of ops/matmul.h, choose that order by size. All tensors are fp32 where nothing else is said.

/// y = x wᵀ.   x [T, in], w [out, in], y [T, out]
void rowwise_linear(Device& device, const Tensor& x, const Tensor& w, const Tensor& y);

/// The index of the largest element of each row of x wᵀ, of equal ones the lowest; -1 where none is a number.
///   x [T, H], w [V, H], choices [T] int64
void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& choices);

/// Attention as in ops/attention.h, of rows that stand at `first`, `first` + 1, … of a sequence, with a causal mask. Of
/// its keys and values the last n at most are needed: those of row j are in row j mod n.
///   q, out [T, heads, d], k, v [n, kv_heads, d]
void rowwise_attention(Device& device, const AttentionMask& mask, std::int64_t first, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out);

}  // namespace mtp::ops
