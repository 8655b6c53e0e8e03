// Attention in plain fp32: simple and right. Source: FlashAttention-2 (arXiv:2307.08691).

#include "attention.cuh"

namespace mtp::ops::cuda {

namespace {

/// Over the 16 threads of a query.
template <typename Combine>
__device__ float reduce_query(float value, Combine combine) {
#pragma unroll
  for (int distance = block_rows / 2; distance > 0; distance /= 2)
    value = combine(value, __shfl_xor_sync(whole_warp, value, distance));
  return value;
}

/// A block of threads handles a block of queries of one head.
__global__ void __launch_bounds__(attention_threads, 1)
    forward_kernel(AttentionMask mask, SequenceTable sequences, AttentionShape shape, Elements q_elements,
                   Elements k_elements, Elements v_elements, Elements out_elements, float* lse) {
  __shared__ Pairs probabilities;
  __shared__ float factors[block_rows];  // of each query's sums
  const std::int64_t first = sequences.offsets[blockIdx.z], h = blockIdx.y, group = h / shape.heads_per_group();
  const Band band(mask.from_row(first), static_cast<int>(sequences.offsets[blockIdx.z + 1] - first));
  const int begin = static_cast<int>(blockIdx.x) * block_rows;
  if (begin >= band.length) return;
  const Range queries = Range{0, band.length}.part(begin, block_rows);
  const Head q = head_of(q_elements, shape.heads, h, shape.width, first);
  const Head k = head_of(k_elements, shape.kv_heads, group, shape.width, first);
  const Head v = head_of(v_elements, shape.kv_heads, group, shape.width, first);
  const Tile q_tile(0, shape.width), key_tile(1, shape.width);
  const int i = static_cast<int>(threadIdx.x) / block_rows, j = static_cast<int>(threadIdx.x) % block_rows;
  const int t = queries.begin + i;

  q_tile.load(q, queries);
  // Exponentials are relative to the largest score so far; sums so far are scaled when it grows.
  float maximum = -INFINITY, sum = 0;
  Sums out;
  const Range keys = band.keys_of(queries);
  for (int key = keys.begin; key < keys.end; key += block_rows) {
    const Range block = keys.part(key, block_rows);
    key_tile.load(k, block);
    __syncthreads();
    const bool is_seen = band.sees(t, key + j);
    const float score = is_seen ? dot(q_tile.row(i), key_tile.row(j), q_tile.width) : -INFINITY;
    const float largest = reduce_query(Largest()(maximum, score), Largest());
    const float p = is_seen ? expf(score - largest) : 0.0f;
    const float factor = maximum == -INFINITY ? 0.0f : expf(maximum - largest);
    maximum = largest;
    sum = sum * factor + reduce_query(p, Sum());
    probabilities[i][j] = p;
    if (j == 0) factors[i] = factor;
    __syncthreads();
    key_tile.load(v, block);
    __syncthreads();
#pragma unroll
    for (int row = 0; row < block_rows; ++row)
#pragma unroll
      for (int c = 0; c < columns_of_thread; ++c) out.values[row][c] *= factors[row];
    out.add([&](int row, int column) { return probabilities[row][column]; }, key_tile);
    __syncthreads();
  }
  if (j == 0) {
    factors[i] = 1.0f / sum;
    if (t < queries.end) lse[h * shape.rows + first + t] = maximum + logf(sum);
  }
  __syncthreads();
  out.store(head_of(out_elements, shape.heads, h, shape.width, first), queries, q_tile.width,
            [&](int row) { return factors[row]; });
}

}  // namespace

void plain_attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                             const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  const AttentionShape shape = shape_of(q, k);
  for_each_table(sequences, [&](const SequenceTable& table) {
    const dim3 grid(blocks(most_tiles(table, block_rows)), blocks(shape.heads), blocks(table.count));
    mtp::launch(device, forward_kernel, grid, attention_threads, 2 * Tile::bytes(shape.width), mask, table, shape,
                Elements(q), Elements(k), Elements(v), Elements(out), lse.f32());
  });
}

}  // namespace mtp::ops::cuda
