// The gradients of attention in bf16 on tensor cores. One grid has a block for every tile of queries of a head, which
// writes dq, and for every tile of keys of a key/value head one that writes dk and one that writes dv, adding up the
// query heads in their order. Source: FlashAttention-2 (arXiv:2307.08691).

#include "attention_mma.cuh"

namespace mtp::ops::cuda {

namespace {

struct BackwardArguments {
  AttentionMask mask;
  SequenceTable sequences;
  AttentionShape shape;
  std::uint16_t *dout, *q, *k, *v;
  float *lse, *mean;            // [heads, T]; mean: Σ dout · out
  std::uint16_t *dq, *dk, *dv;  // dk and dv may be null
};

/// exp(score - lse)
__device__ inline float probability(float score, float lse) { return exp2f(fmaf(score, log2_of_e, -lse * log2_of_e)); }

template <int width>
__device__ void query_gradients(const BackwardArguments& a, unsigned h) {
  using Rows = OwnRows<width, 2>;
  using Numbers = typename Rows::Numbers;
  const TiledSequence sequence(a.sequences);
  const unsigned group = h / static_cast<unsigned>(a.shape.heads_per_group());
  const Range queries = sequence.tile(true);  // the last queries see the most keys
  if (queries.size() == 0) return;
  const Range keys = sequence.band(a.mask).keys_of(queries);
  const HeadRows own = sequence.rows(a.shape.heads, h, width, queries);

  Rows dq(a.q, a.dout, own, {a.k, a.v, sequence.rows(a.shape.kv_heads, group, width, keys), 1, nullptr, nullptr, 0, 0});
  float* const numbers = Rows::scratch();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < tile_rows) {
    const bool exists = thread < queries.size();
    const std::int64_t place = h * a.shape.rows + sequence.first + queries.begin + thread;
    numbers[thread] = exists ? a.lse[place] : 0.0f;
    numbers[tile_rows + thread] = exists ? a.mean[place] : 0.0f;
  }
  dq.for_each_tile([&](Numbers(&products)[2], int first, const float*) {
    const int key = keys.begin + first;
    hide_unseen<true>(products[0], sequence, a.mask, queries, {key, key + tile_rows});
    products[0].for_each([&](float& score, int row, int column) {
      const int place = Numbers::row_of(row);
      score = probability(score, numbers[place]) * (products[1].at(row, column) - numbers[tile_rows + place]);
    });
  });
  dq.store(a.dq, own, [](int) { return 1.0f; });
}

/// dk, from the products with own k and v, or dv, from that with own k.
template <int width, int own_operands>
__device__ void key_gradients(const BackwardArguments& a, unsigned group, std::uint16_t* gradient) {
  using Rows = OwnRows<width, own_operands>;
  using Numbers = typename Rows::Numbers;
  const TiledSequence sequence(a.sequences);
  const auto heads = static_cast<unsigned>(a.shape.heads_per_group()), rows = static_cast<unsigned>(a.shape.rows);
  const Range keys = sequence.tile(false);  // the first keys are seen by the most queries
  if (keys.size() == 0) return;
  const Range queries = sequence.band(a.mask).queries_of(keys);
  const HeadRows own = sequence.rows(a.shape.kv_heads, group, width, keys);

  const unsigned numbers = group * heads * rows + sequence.first + queries.begin;
  Rows sums(
      a.k, own_operands == 2 ? a.v : nullptr, own,
      {a.q, a.dout, sequence.rows(a.shape.heads, group * heads, width, queries), heads, a.lse, a.mean, numbers, rows});
  sums.for_each_tile([&](Numbers(&products)[own_operands], int first, const float* of_queries) {
    const int query = queries.begin + first;
    hide_unseen<false>(products[0], sequence, a.mask, {query, query + tile_rows}, keys);
    products[0].for_each([&](float& score, int row, int column) {
      const int place = Numbers::column_of(column);
      score = probability(score, of_queries[place]);
      if constexpr (own_operands == 2) score *= products[1].at(row, column) - of_queries[tile_rows + place];
    });
  });
  sums.store(gradient, own, [](int) { return 1.0f; });
}

/// Blocks with the most work are started first: those of keys, which have as many query heads as share them.
template <int width>
__global__ void __launch_bounds__(Blocking<width, 2>::threads, Blocking<width, 2>::blocks)
    mma_backward_kernel(BackwardArguments a) {
  const unsigned key_blocks = a.dk == nullptr ? 0 : static_cast<unsigned>(a.shape.kv_heads), block = blockIdx.x;
  if (block < key_blocks)
    key_gradients<width, 2>(a, block, a.dk);
  else if (block < 2 * key_blocks)
    key_gradients<width, 1>(a, block - key_blocks, a.dv);
  else
    query_gradients<width>(a, block - 2 * key_blocks);
}

}  // namespace

void mma_attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                            const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mean, const Tensor& lse,
                            const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const AttentionShape shape = shape_of(q, k);
  const bool with_keys = !dk.empty();
  BackwardArguments arguments{mask,
                              {},
                              shape,
                              bf16_of(dout),
                              bf16_of(q),
                              bf16_of(k),
                              bf16_of(v),
                              lse.f32(),
                              mean.f32(),
                              bf16_of(dq),
                              with_keys ? bf16_of(dk) : nullptr,
                              with_keys ? bf16_of(dv) : nullptr};
  const std::int64_t roles = shape.heads + (with_keys ? 2 * shape.kv_heads : 0);
  for_each_table(sequences, [&](const SequenceTable& table) {
    arguments.sequences = table;
    const dim3 grid(blocks(roles), blocks(table.count), blocks(most_tiles(table, tile_rows)));
    with_width(shape.width, [&](auto width) {
      using One = Blocking<width(), 1>;
      using Two = Blocking<width(), 2>;
      static_assert(One::threads == Two::threads);
      mtp::launch(device, mma_backward_kernel<width()>, grid, Two::threads,
                  std::max(One::shared_bytes, Two::shared_bytes), arguments);
    });
  });
}

}  // namespace mtp::ops::cuda
