// The gradients of attention in plain fp32: simple and right. Queries and keys have a kernel each, in which a block of
// threads is the only one that writes its rows and adds to them in order.

#include "attention.cuh"

namespace mtp::ops::cuda {

namespace {

struct BackwardArguments {
  AttentionMask mask;
  SequenceTable sequences;
  AttentionShape shape;
  Elements dout, q, k, v;
  const float *lse, *mean;  // [heads, T]; mean: Σ dout · out
  Elements dq, dk, dv;
};

/// What a sequence's heads are to a block of threads.
struct SequenceHeads {
  const BackwardArguments& arguments;
  std::int64_t first;
  Band band;

  __device__ SequenceHeads(const BackwardArguments& of, int b)
      : arguments(of),
        first(of.sequences.offsets[b]),
        band(of.mask.from_row(first), static_cast<int>(of.sequences.offsets[b + 1] - first)) {}
  __device__ Head of_query(const Elements& x, std::int64_t h) const {
    return head_of(x, arguments.shape.heads, h, arguments.shape.width, first);
  }
  __device__ Head of_key(const Elements& x, std::int64_t group) const {
    return head_of(x, arguments.shape.kv_heads, group, arguments.shape.width, first);
  }
};

/// The softmax p of query i and key j of two blocks, and the gradient of its score, p · (dp - Σ p dp), where
/// Σ p dp = dout · out. Zero where the query does not see the key.
struct Pair {
  float p = 0, dscore = 0;
};

__device__ Pair pair_of(const SequenceHeads& sequence, std::int64_t h, int t, int key, const float* q, const float* k,
                        const float* dout, const float* v) {
  const BackwardArguments& a = sequence.arguments;
  if (!sequence.band.sees(t, key)) return {};
  const std::int64_t row = h * a.shape.rows + sequence.first + t;
  const int width = static_cast<int>(a.shape.width);
  const float p = expf(dot(q, k, width) - a.lse[row]);
  return {p, p * (dot(dout, v, width) - a.mean[row])};
}

/// A block of threads handles a block of queries of one head.
__global__ void __launch_bounds__(attention_threads, 1) queries_kernel(BackwardArguments a) {
  __shared__ Pairs dscores;
  const SequenceHeads sequence(a, static_cast<int>(blockIdx.z));
  const std::int64_t h = blockIdx.y, group = h / a.shape.heads_per_group();
  const int begin = static_cast<int>(blockIdx.x) * block_rows;
  if (begin >= sequence.band.length) return;
  const Range queries = Range{0, sequence.band.length}.part(begin, block_rows);
  const Tile q(0, a.shape.width), dout(1, a.shape.width), k(2, a.shape.width), v(3, a.shape.width);
  const int i = static_cast<int>(threadIdx.x) / block_rows, j = static_cast<int>(threadIdx.x) % block_rows;

  q.load(sequence.of_query(a.q, h), queries);
  dout.load(sequence.of_query(a.dout, h), queries);
  Sums dq;
  const Range keys = sequence.band.keys_of(queries);
  for (int key = keys.begin; key < keys.end; key += block_rows) {
    const Range block = keys.part(key, block_rows);
    k.load(sequence.of_key(a.k, group), block);
    v.load(sequence.of_key(a.v, group), block);
    __syncthreads();
    dscores[i][j] = pair_of(sequence, h, queries.begin + i, key + j, q.row(i), k.row(j), dout.row(i), v.row(j)).dscore;
    __syncthreads();
    dq.add([&](int row, int column) { return dscores[row][column]; }, k);
    __syncthreads();
  }
  dq.store(sequence.of_query(a.dq, h), queries, q.width, [](int) { return 1.0f; });
}

/// A block of threads handles a block of keys of one key/value head, whose query heads are added in order.
__global__ void __launch_bounds__(attention_threads, 1) keys_kernel(BackwardArguments a) {
  __shared__ Pairs probabilities, dscores;
  const SequenceHeads sequence(a, static_cast<int>(blockIdx.z));
  const std::int64_t group = blockIdx.y;
  const int begin = static_cast<int>(blockIdx.x) * block_rows;
  if (begin >= sequence.band.length) return;
  const Range keys = Range{0, sequence.band.length}.part(begin, block_rows);
  const Tile q(0, a.shape.width), dout(1, a.shape.width), k(2, a.shape.width), v(3, a.shape.width);
  const int i = static_cast<int>(threadIdx.x) / block_rows, j = static_cast<int>(threadIdx.x) % block_rows;

  k.load(sequence.of_key(a.k, group), keys);
  v.load(sequence.of_key(a.v, group), keys);
  Sums dk, dv;
  const Range seeing = sequence.band.queries_of(keys);
  for (std::int64_t h = group * a.shape.heads_per_group(); h < (group + 1) * a.shape.heads_per_group(); ++h)
    for (int query = seeing.begin; query < seeing.end; query += block_rows) {
      const Range queries = seeing.part(query, block_rows);
      q.load(sequence.of_query(a.q, h), queries);
      dout.load(sequence.of_query(a.dout, h), queries);
      __syncthreads();
      const Pair pair = pair_of(sequence, h, query + i, keys.begin + j, q.row(i), k.row(j), dout.row(i), v.row(j));
      probabilities[i][j] = pair.p;
      dscores[i][j] = pair.dscore;
      __syncthreads();
      dk.add([&](int row, int column) { return dscores[column][row]; }, q);
      dv.add([&](int row, int column) { return probabilities[column][row]; }, dout);
      __syncthreads();
    }
  dk.store(sequence.of_key(a.dk, group), keys, k.width, [](int) { return 1.0f; });
  dv.store(sequence.of_key(a.dv, group), keys, k.width, [](int) { return 1.0f; });
}

}  // namespace

void plain_attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mean, const Tensor& lse,
                              const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const AttentionShape shape = shape_of(q, k);
  BackwardArguments arguments{mask,        {},        shape,      Elements(dout), Elements(q),  Elements(k),
                              Elements(v), lse.f32(), mean.f32(), Elements(dq),   Elements(dk), Elements(dv)};
  for_each_table(sequences, [&](const SequenceTable& table) {
    arguments.sequences = table;
    const unsigned parts = blocks(most_tiles(table, block_rows)), count = blocks(table.count);
    const std::size_t shared = 4 * Tile::bytes(shape.width);
    mtp::launch(device, queries_kernel, dim3(parts, blocks(shape.heads), count), attention_threads, shared, arguments);
    if (!dk.empty())
      mtp::launch(device, keys_kernel, dim3(parts, blocks(shape.kv_heads), count), attention_threads, shared,
                  arguments);
  });
}

}  // namespace mtp::ops::cuda
