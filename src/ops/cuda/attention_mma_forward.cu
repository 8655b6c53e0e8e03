// Attention in bf16 on tensor cores. Source: FlashAttention-2 (arXiv:2307.08691).

#include "attention_mma.cuh"

namespace mtp::ops::cuda {

namespace {

struct ForwardArguments {
  AttentionMask mask;
  SequenceTable sequences;
  AttentionShape shape;
  std::uint16_t *q, *k, *v, *out;
  float* lse;  // [heads, T]
};

/// Combines, of each of a thread's rows, what all threads with this row have, in a fixed order. `shared` has room for
/// the 64 rows of each warp of a row, and is not read any more.
template <typename Numbers, typename Combine>
__device__ void reduce_rows(float (&values)[rows_of_thread], float* shared, Combine combine) {
#pragma unroll
  for (int row = 0; row < rows_of_thread; ++row) {
#pragma unroll
    for (int distance = 2; distance > 0; distance /= 2)
      values[row] = combine(values[row], __shfl_xor_sync(whole_warp, values[row], distance));
    if (Numbers::lane() % 4 == 0) shared[Numbers::warp_column() * tile_rows + Numbers::row_of(row)] = values[row];
  }
  __syncthreads();
#pragma unroll
  for (int row = 0; row < rows_of_thread; ++row) {
    values[row] = shared[Numbers::row_of(row)];
#pragma unroll
    for (int warp = 1; warp < Numbers::warp_columns; ++warp)
      values[row] = combine(values[row], shared[warp * tile_rows + Numbers::row_of(row)]);
  }
}

/// Softmax of a thread's rows over the scores so far. Exponentials are powers of two relative to the largest score so
/// far; what was summed before is scaled when it grows.
template <typename Numbers>
struct RunningSoftmax {
  float maximum[rows_of_thread];   // of all scores of a row, times log2(e)
  float sum[rows_of_thread] = {};  // of the exponentials in the thread's columns

  __device__ RunningSoftmax() {
#pragma unroll
    for (float& value : maximum) value = -INFINITY;
  }

  /// Replaces scores, -∞ where a key is not seen, by exponentials, and says by what to multiply sums so far.
  __device__ void add(Numbers& scores, float (&factor)[rows_of_thread], float* shared) {
    float largest[rows_of_thread];
#pragma unroll
    for (float& value : largest) value = -INFINITY;
    scores.for_each([&](float score, int row, int) { largest[row] = Largest()(largest[row], score); });
    reduce_rows<Numbers>(largest, shared, Largest());
    float relative_to[rows_of_thread];
#pragma unroll
    for (int row = 0; row < rows_of_thread; ++row) {
      const float before = maximum[row];
      maximum[row] = Largest()(before, largest[row] * log2_of_e);
      relative_to[row] = maximum[row] == -INFINITY ? 0.0f : maximum[row];
      factor[row] = exp2f(before - relative_to[row]);
      sum[row] *= factor[row];
    }
    scores.for_each([&](float& score, int row, int) {
      score = exp2f(fmaf(score, log2_of_e, -relative_to[row]));
      sum[row] += score;
    });
  }
};

template <int width>
__global__ void __launch_bounds__(Blocking<width, 1>::threads, Blocking<width, 1>::blocks)
    mma_forward_kernel(ForwardArguments a) {
  using Rows = OwnRows<width, 1>;
  using Numbers = typename Rows::Numbers;
  const TiledSequence sequence(a.sequences);
  const unsigned h = blockIdx.x, group = h / static_cast<unsigned>(a.shape.heads_per_group());
  const Range queries = sequence.tile(true);  // the last queries see the most keys
  if (queries.size() == 0) return;
  const Range keys = sequence.band(a.mask).keys_of(queries);
  const HeadRows own = sequence.rows(a.shape.heads, h, width, queries);

  Rows out(a.q, nullptr, own,
           {a.k, a.v, sequence.rows(a.shape.kv_heads, group, width, keys), 1, nullptr, nullptr, 0, 0});
  RunningSoftmax<Numbers> softmax;
  out.for_each_tile([&](Numbers(&products)[1], int row, const float*) {
    const int key = keys.begin + row;
    hide_unseen<true>(products[0], sequence, a.mask, queries, {key, key + tile_rows});
    float factor[rows_of_thread];
    softmax.add(products[0], factor, Rows::scratch());
#pragma unroll
    for (Numbers& sums : out.sums) sums.for_each([&](float& sum, int i, int) { sum *= factor[i]; });
  });

  reduce_rows<Numbers>(softmax.sum, Rows::scratch(), Sum());
  if (Numbers::warp_column() == 0 && Numbers::lane() % 4 == 0)
#pragma unroll
    for (int row = 0; row < rows_of_thread; ++row) {
      const int t = queries.begin + Numbers::row_of(row);
      if (t < queries.end)
        a.lse[h * a.shape.rows + sequence.first + t] = softmax.maximum[row] * log_of_2 + logf(softmax.sum[row]);
    }
  out.store(a.out, own, [&](int row) { return 1.0f / softmax.sum[row]; });
}

}  // namespace

void mma_attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                           const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  const AttentionShape shape = shape_of(q, k);
  ForwardArguments arguments{mask, {}, shape, bf16_of(q), bf16_of(k), bf16_of(v), bf16_of(out), lse.f32()};
  for_each_table(sequences, [&](const SequenceTable& table) {
    arguments.sequences = table;
    const dim3 grid(blocks(shape.heads), blocks(table.count), blocks(most_tiles(table, tile_rows)));
    with_width(shape.width, [&](auto width) {
      using Cut = Blocking<width(), 1>;
      mtp::launch(device, mma_forward_kernel<width()>, grid, Cut::threads, Cut::shared_bytes, arguments);
    });
  });
}

}  // namespace mtp::ops::cuda
