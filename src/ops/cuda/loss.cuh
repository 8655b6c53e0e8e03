#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../chunk.h"
#include "../likeness.h"
#include "mtp/ops/cross_entropy.h"
#include "reduce.cuh"

namespace mtp::ops::cuda {

// What the losses over the whole vocabulary and over the masked head share.

inline constexpr int row_threads = 256;  // of the block that handles a row of logits

using Rows = std::vector<std::int64_t>;

/// The rows of `values` [T] int64 that are ≥ 0: those with a label, or with a row of the teacher. Waits for the device:
/// the sizes of the products that follow depend on them.
Rows chosen_rows(const Device& device, const Tensor& values);

/// The given rows of a matrix, one after another.   rows [n] int64
Tensor gather_rows(Device& device, const Tensor& x, const Tensor& rows);

/// y[rows[i]] = x[i]
void scatter_rows(Device& device, const Tensor& x, const Tensor& rows, const Tensor& y);

/// The products x wᵀ, in fp32 and not capped.   x [n, H], w [V, H]
Tensor logits_of(Device& device, const Tensor& x, const Tensor& w);

/// The teacher's logits [n, V] for the student's `rows`.   rows [n] int64
Tensor teacher_logits(Device& device, const Teacher& teacher, const Tensor& teacher_rows, const Tensor& rows);

/// loss = Σ losses, in a fixed order.   losses [n] fp64
void sum_losses(Device& device, const Tensor& losses, const Tensor& loss);

/// 1 GiB of logits: at E4B's vocabulary, 1024 rows, so that reading and writing the table's gradient again for every
/// chunk takes less than half as long as the products.
inline constexpr Chunk chunk_of_logits{.rows = 1024, .logits = std::int64_t{1} << 28};

/// body(rows) for pieces of `rows` whose [n, V] logits are to be stored at a time.   rows [n] int64
template <typename Body>
void for_each_chunk(Device& device, const Rows& rows, std::int64_t vocabulary, const Body& body) {
  const std::int64_t chunk = chunk_of_logits.rows_of(vocabulary), n = static_cast<std::int64_t>(rows.size());
  if (n == 0) return;
  const Tensor all = device.from_host(rows);
  for (std::int64_t begin = 0; begin < n; begin += chunk) body(all.slice(begin, {std::min(chunk, n - begin)}));
}

/// Chunks of the rows with a label: `run(x, rows)` queues the kernel that writes the choices of `rows`, whose inputs
/// are x.
///   x [T, H], w [V, H], labels, choices [T] int64
template <typename Run>
void choose(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices,
            const Run& run) {
  device.copy(device.from_host(Rows(static_cast<std::size_t>(x.size(0)), no_label)), choices);
  for_each_chunk(device, chosen_rows(device, labels), w.size(0),
                 [&](const Tensor& rows) { run(gather_rows(device, x, rows), rows); });
}

/// z = cap · tanh(z / cap); 0: none.
struct SoftCap {
  float cap;
  __device__ float operator()(float z) const { return cap > 0 ? cap * tanhf(z / cap) : z; }
  /// d cap(u) / du, given cap(u).
  __device__ float slope(float z) const { return cap > 0 ? 1.0f - (z / cap) * (z / cap) : 1.0f; }
};

/// exp(z - maximum) / sum; the maximum keeps the exponentials finite.
struct Softmax {
  float maximum, sum;

  __device__ float operator()(float z) const { return expf(z - maximum) / sum; }
  __device__ double log_sum() const { return static_cast<double>(maximum) + log(static_cast<double>(sum)); }
  /// `count` more logits of one value, not above the maximum.
  __device__ void add(float z, std::int64_t count) { sum += static_cast<float>(count) * expf(z - maximum); }
};

/// By all threads of a block.
__device__ inline Likeness sum_of_block(const Likeness& own) {
  return {reduce_block(own.cross_entropy, Sum()), reduce_block(own.accepted, Sum()), reduce_block(own.short_of, Sum())};
}

/// Of the logits z(0) … z(width - 1), by all threads of a block.
template <typename Logit>
__device__ Softmax softmax_of(std::int64_t width, const Logit& z) {
  constexpr float lowest = -3.402823466e38f;  // not infinite: an infinite difference from itself would be no number
  constexpr int at_once = 4;                  // that share a rescaling, and whose loads do not wait for each other
  float maximum = lowest, sum = 0;
  for (std::int64_t i = threadIdx.x; i < width; i += at_once * blockDim.x) {
    float values[at_once], raised = maximum;
#pragma unroll
    for (int u = 0; u < at_once; ++u) {
      const std::int64_t at = i + u * blockDim.x;
      values[u] = at < width ? z(at) : -INFINITY;
      raised = Largest()(raised, values[u]);
    }
    sum *= expf(maximum - raised);
#pragma unroll
    for (int u = 0; u < at_once; ++u) sum += expf(values[u] - raised);
    maximum = raised;
  }
  const float largest = reduce_block(maximum, Largest());
  return {largest, reduce_block(sum * expf(maximum - largest), Sum())};
}

/// The index of the largest of z(0) … z(width - 1), of equal ones that with the lowest id(i): its id. `none` where
/// none is a number. By all threads of a block.
template <typename Logit, typename Id>
__device__ std::int64_t best_of(std::int64_t width, std::int64_t none, const Logit& z, const Id& id) {
  constexpr std::int64_t past_all = INT64_MAX;
  float best = -INFINITY;
  std::int64_t best_id = past_all;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = z(i);
    const std::int64_t own = id(i);
    if (value > best || (value == best && own < best_id)) {
      best = value;
      best_id = own;
    }
  }
  const float largest = reduce_block(best, Largest());
  const std::int64_t lowest_id = reduce_block(best == largest ? best_id : past_all, Least());
  return lowest_id == past_all ? none : lowest_id;
}

}  // namespace mtp::ops::cuda
