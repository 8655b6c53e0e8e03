#include "mtp/ops/rowwise.h"

#include "loss.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;

/// Rows that share one pass over the weights.
constexpr int rows_together = 8;

/// A warp computes one output of up to eight rows: how a row is summed does not depend on the others.
template <int n>
__global__ void linear_kernel(std::int64_t rows, std::int64_t outputs, std::int64_t width, Elements x, Elements w,
                              Elements y) {
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * rows_together;
  const int lane = static_cast<int>(threadIdx.x % warp_size);
  if (output >= outputs) return;
  float sums[rows_together] = {};
  for (std::int64_t i = lane * n; i < width; i += warp_size * n) {
    const Pack<n> weights = w.load<n>(output * width + i);
#pragma unroll
    for (int r = 0; r < rows_together; ++r) {
      if (first + r >= rows) break;
      const Pack<n> values = x.load<n>((first + r) * width + i);
#pragma unroll
      for (int j = 0; j < n; ++j) sums[r] += values.values[j] * weights.values[j];
    }
  }
#pragma unroll
  for (int r = 0; r < rows_together; ++r) {
    if (first + r >= rows) break;
    const float sum = reduce_warp(sums[r], Sum());
    if (lane == 0) y.set((first + r) * outputs + output, sum);
  }
}

__global__ void choice_kernel(std::int64_t vocabulary, const float* z, std::int64_t* choices) {
  const float* const row = z + blockIdx.x * vocabulary;
  const std::int64_t best = best_of(
      vocabulary, -1, [&](std::int64_t i) { return row[i]; }, [](std::int64_t i) { return i; });
  if (threadIdx.x == 0) choices[blockIdx.x] = best;
}

/// A ring of keys or values: those of row j are in row j mod n.
struct Ring {
  Elements elements;
  std::int64_t n, kv_heads, width;

  __device__ std::int64_t begin_of(std::int64_t j, std::int64_t group) const {
    return (j % n * kv_heads + group) * width;
  }
};

constexpr int widest_head = 512;
constexpr int columns_of_thread = widest_head / threads;

/// A block attends for one row and head, to as many keys at a time as it has threads: a warp computes a score, a thread
/// owns columns of the sum.
__global__ void attention_kernel(AttentionMask mask, std::int64_t first, std::int64_t heads, Elements q, Ring k, Ring v,
                                 Elements out) {
  __shared__ float scores[threads];
  const std::int64_t row = blockIdx.x / heads, h = blockIdx.x % heads, group = h / (heads / k.kv_heads);
  const std::int64_t t = first + row, begin = mask.begin(t, 0), end = mask.end(t, 0), width = k.width;
  const Elements query = q.from(blockIdx.x * width);
  const int lane = static_cast<int>(threadIdx.x % warp_size), warp = static_cast<int>(threadIdx.x / warp_size);
  float maximum = -INFINITY, sum = 0, sums[columns_of_thread] = {};
  for (std::int64_t block = begin; block < end; block += threads) {
    const int keys = static_cast<int>(std::min<std::int64_t>(threads, end - block));
    for (int j = warp; j < keys; j += warps) {
      const Elements key = k.elements.from(k.begin_of(block + j, group));
      float score = 0;
      for (std::int64_t i = lane; i < width; i += warp_size) score += query[i] * key[i];
      score = reduce_warp(score, Sum());
      if (lane == 0) scores[j] = score;
    }
    __syncthreads();
    const bool has_key = static_cast<int>(threadIdx.x) < keys;
    const float score = has_key ? scores[threadIdx.x] : -INFINITY;
    const float largest = reduce_block(Largest()(maximum, score), Largest());
    const float p = has_key ? expf(score - largest) : 0.0f, factor = expf(maximum - largest);
    maximum = largest;
    sum = sum * factor + reduce_block(p, Sum());
    scores[threadIdx.x] = p;
    __syncthreads();
#pragma unroll
    for (int c = 0; c < columns_of_thread; ++c) {
      const std::int64_t column = threadIdx.x + c * threads;
      if (column >= width) break;
      sums[c] *= factor;
      for (int j = 0; j < keys; ++j) sums[c] += scores[j] * v.elements[v.begin_of(block + j, group) + column];
    }
    __syncthreads();
  }
#pragma unroll
  for (int c = 0; c < columns_of_thread; ++c) {
    const std::int64_t column = threadIdx.x + c * threads;
    if (column < width) out.set(blockIdx.x * width + column, sums[c] / sum);
  }
}

Ring ring_of(const Tensor& x) { return {Elements(x), x.size(0), x.size(1), x.size(2)}; }

}  // namespace

void rowwise_linear(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  const std::int64_t rows = x.size(0), in = x.size(1), out = w.size(0);
  MTP_ASSERT(w.size(1) == in && y.size(0) == rows && y.size(1) == out);
  with_pack(is_packed({in}, {&x, &w}), [&](auto n) {
    launch(device, linear_kernel<n()>, dim3(blocks(ceil_div(out, warps)), blocks(ceil_div(rows, rows_together))),
           threads, rows, out, in, Elements(x), Elements(w), Elements(y));
  });
}

void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& choices) {
  const std::int64_t rows = x.size(0), vocabulary = w.size(0);
  MTP_ASSERT(w.size(1) == x.size(1) && choices.elements() == rows && choices.dtype() == DType::i64);
  const Tensor logits = device.empty({rows, vocabulary});
  rowwise_linear(device, x, w, logits);
  launch(device, choice_kernel, blocks(rows), threads, vocabulary, logits.f32(), choices.data<std::int64_t>());
}

void rowwise_attention(Device& device, const AttentionMask& mask, std::int64_t first, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out) {
  MTP_ASSERT(mask.kind == AttentionMask::Kind::causal && q.shape() == out.shape() && k.shape() == v.shape());
  MTP_ASSERT(q.size(2) == k.size(2) && q.size(1) % k.size(1) == 0 && q.size(2) <= widest_head);
  const std::int64_t seen = mask.end(first, 0) - mask.begin(first, 0);
  MTP_ASSERT(seen > 0 && seen <= k.size(0));
  launch(device, attention_kernel, blocks(q.size(0) * q.size(1)), threads, mask, first, q.size(1), Elements(q),
         ring_of(k), ring_of(v), Elements(out));
}

}  // namespace mtp::ops::cuda
