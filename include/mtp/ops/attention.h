#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "mtp/ops/sequences.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

/// Which keys a query sees: always one interval, so that work is in proportion to what is visible.
struct AttentionMask {
  enum class Kind {
    causal,      // j ≤ t, and j > t + offset - window where there is a window
    everything,  // all keys
    mirrored,    // |t - (S-1-j)| ≤ window: Hugging Face's flipped bidirectional window
  };
  Kind kind = Kind::causal;
  std::int64_t window = 0;  // causal: 0 for none
  std::int64_t offset = 0;  // causal: distance of the query's position from its row
  /// Causal with offset 0: blocks of rows, such as an image's tokens, that see all of their own block, within the
  /// window to the past. What `blocks_of` gives, in the device's memory; null for none.
  const std::int64_t* blocks = nullptr;

  /// The mask of the sequence whose first row is `row` of the packed ones.
  constexpr AttentionMask from_row(std::int64_t row) const {
    AttentionMask mask = *this;
    if (blocks != nullptr) mask.blocks += 2 * row;
    return mask;
  }

  /// Keys begin(t, S) … end(t, S) - 1 of a sequence of S rows are visible to row t.
  constexpr std::int64_t begin(std::int64_t t, std::int64_t length) const {
    if (kind == Kind::causal) return window > 0 ? std::max<std::int64_t>(0, t + offset - window + 1) : 0;
    if (kind == Kind::mirrored) return std::max<std::int64_t>(0, length - 1 - t - window);
    return 0;
  }
  constexpr std::int64_t end(std::int64_t t, std::int64_t length) const {
    if (kind == Kind::causal) return blocks != nullptr ? blocks[2 * t + 1] : t + 1;
    if (kind == Kind::mirrored) return std::min(length, length - 1 - t + window + 1);
    return length;
  }
};

/// [T, 2]: the first row of the block that each row belongs to, and one past its last, counted in its sequence. Blocks
/// are the longest runs of rows with one of `ids_of_blocks`; any other row is one by itself.   ids [T]
std::vector<std::int64_t> blocks_of(const Sequences& sequences, std::span<const std::int64_t> ids,
                                    std::span<const std::int64_t> ids_of_blocks);

/// out = softmax(q kᵀ) v per sequence and head, with scale 1 (Gemma 4) and grouped heads: query head h uses key/value
/// head h / (heads / kv_heads). Works in blocks of queries and keys; no S×S matrix is stored.
///
///   q, out  [T, heads, d]     fp32 or bf16
///   k, v    [T, kv_heads, d]  of the same type
///   lse     [heads, T] fp32   out: log of the sum of exponentials, kept for the backward
///
/// Everything between is fp32; GPUs round the weights of rows of bf16 to bf16 for tensor cores. Every row must see at
/// least one key. The bits do not depend on the number of threads.
/// Source: the blocking and the kept log-sum-exp are FlashAttention-2's (arXiv:2307.08691).
void attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse);

/// Gradients of the above in the type of q, written (not added); dk and dv may both be empty and are then not computed
/// (a drafter on a frozen base).
void attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv);

}  // namespace mtp::ops
