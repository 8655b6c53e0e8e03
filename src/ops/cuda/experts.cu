#include "mtp/ops/experts.h"

#include "matches.cuh"
#include "shared_memory.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

/// A block of one warp has a row. Each expert is the best of those after the last one, by logit and then by number.
__global__ void choose_kernel(int experts, int n, const float* logits, Elements scale, std::int64_t* chosen,
                              float* shares, float* weights) {
  constexpr int none = INT32_MAX;
  const std::int64_t row = blockIdx.x;
  const int lane = static_cast<int>(threadIdx.x);
  const float* z = logits + row * experts;
  int *const by_logit = shared_memory<int>(), *const by_number = by_logit + n;
  float last = INFINITY, maximum = 0;
  int last_expert = -1;
  for (int k = 0; k < n; ++k) {
    float best = -INFINITY;
    int best_expert = none;
    for (int e = lane; e < experts; e += warp_size) {
      const float value = z[e] == z[e] ? z[e] : -INFINITY;
      const bool is_left = value < last || (value == last && e > last_expert);
      if (is_left && (best_expert == none || value > best)) {
        best = value;
        best_expert = e;
      }
    }
    last = reduce_warp(best, Largest());
    last_expert = reduce_warp(best == last ? best_expert : none, Least());
    if (k == 0) maximum = last;
    if (lane == 0) by_logit[k] = last_expert;
  }
  __syncthreads();
  for (int k = lane; k < n; k += warp_size) {
    int place = 0;
    for (int other = 0; other < n; ++other) place += by_logit[other] < by_logit[k];
    by_number[place] = by_logit[k];
  }
  __syncthreads();
  float sum = 0;
  for (int k = 0; k < n; ++k) sum += expf(z[by_number[k]] - maximum);
  for (int k = lane; k < n; k += warp_size) {
    const int expert = by_number[k];
    const float share = expf(z[expert] - maximum) / sum;
    chosen[row * n + k] = expert;
    shares[row * n + k] = share;
    weights[row * n + k] = share * scale[expert];
  }
}

/// A block of one warp has a row.
__global__ void choose_backward_kernel(int experts, int n, const float* dweights, const std::int64_t* chosen,
                                       const float* shares, Elements scale, float* dlogits) {
  const std::int64_t row = blockIdx.x, first = row * n;
  const int lane = static_cast<int>(threadIdx.x);
  float mean = 0;
  for (std::int64_t i = first; i < first + n; ++i) mean += shares[i] * (dweights[i] * scale[chosen[i]]);
  for (int e = lane; e < experts; e += warp_size) dlogits[row * experts + e] = 0;
  __syncthreads();
  for (std::int64_t i = first + lane; i < first + n; i += warp_size)
    dlogits[row * experts + chosen[i]] = shares[i] * (dweights[i] * scale[chosen[i]] - mean);
}

/// A block has an expert.
__global__ void scale_gradient_kernel(std::int64_t pairs, const float* dweights, const std::int64_t* chosen,
                                      const float* shares, float* dscale) {
  const std::int64_t expert = blockIdx.x;
  float sum = dscale[expert];
  for_each_match<threads>(
      0, pairs, [&](std::int64_t i) { return chosen[i] == expert; },
      [&](std::int64_t i) { sum += dweights[i] * shares[i]; });
  if (threadIdx.x == 0) dscale[expert] = sum;
}

/// A block has an expert and writes the number of its pairs.
__global__ void count_kernel(std::int64_t pairs, const std::int64_t* chosen, std::int64_t* counts) {
  std::int64_t count = 0;
  for (std::int64_t i = threadIdx.x; i < pairs; i += threads) count += chosen[i] == blockIdx.x;
  count = reduce_block(count, Sum());
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

/// One thread. offsets[e + 1]: the number of pairs of expert e before, where they end after.
__global__ void offsets_kernel(std::int64_t experts, std::int64_t* offsets) {
  offsets[0] = 0;
  for (std::int64_t e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
}

/// A block has an expert.
__global__ void place_kernel(std::int64_t pairs, std::int64_t n, const std::int64_t* chosen,
                             const std::int64_t* offsets, std::int64_t* rows, std::int64_t* places) {
  const std::int64_t expert = blockIdx.x;
  std::int64_t place = offsets[expert];
  for_each_match<threads>(
      0, pairs, [&](std::int64_t i) { return chosen[i] == expert; },
      [&](std::int64_t i) {
        if (threadIdx.x == 0) {
          rows[place] = i / n;
          places[i] = place;
        }
        ++place;
      });
}

// Products of experts. A block computes a tile of an expert's product; a thread has 4 × 4 of its elements, and all of
// them add in the order of the inner dimension.

constexpr int tile = 64, depth = 16, per_thread = 4, threads_across = tile / per_thread;
static_assert(threads == threads_across * threads_across);

/// Which index of an operand's elements lies together in memory.
enum class Inner { first, second };

/// store(i, j, Σ_k a(i, k) · b(k, j)) for i < rows and j < columns, at most a tile; `inner` may be zero.
template <Inner of_a, Inner of_b, typename A, typename B, typename Store>
__device__ void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t inner, const A& a, const B& b,
                              const Store& store) {
  __shared__ float tile_a[depth][tile + 1], tile_b[depth][tile + 1];
  const int down = static_cast<int>(threadIdx.x) / threads_across,
            across = static_cast<int>(threadIdx.x) % threads_across;
  float sums[per_thread][per_thread] = {};
  for (std::int64_t first = 0; first < inner; first += depth) {
    for (int at = static_cast<int>(threadIdx.x); at < tile * depth; at += threads) {
      const int i = of_a == Inner::first ? at % tile : at / depth, k_a = of_a == Inner::first ? at / tile : at % depth;
      tile_a[k_a][i] = i < rows && first + k_a < inner ? a(i, first + k_a) : 0.0f;
      const int j = of_b == Inner::second ? at % tile : at / depth,
                k_b = of_b == Inner::second ? at / tile : at % depth;
      tile_b[k_b][j] = j < columns && first + k_b < inner ? b(first + k_b, j) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < depth; ++k)
#pragma unroll
      for (int i = 0; i < per_thread; ++i)
#pragma unroll
        for (int j = 0; j < per_thread; ++j)
          sums[i][j] = fmaf(tile_a[k][down + i * threads_across], tile_b[k][across + j * threads_across], sums[i][j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < per_thread; ++i)
#pragma unroll
    for (int j = 0; j < per_thread; ++j) {
      const int row = down + i * threads_across, column = across + j * threads_across;
      if (row < rows && column < columns) store(row, column, sums[i][j]);
    }
}

__device__ std::int64_t at_most_a_tile(std::int64_t n) { return n < tile ? n : tile; }

/// The pairs of one expert, or a tile of them.
struct PairRange {
  std::int64_t expert, begin, count;
};

/// Tile `index` of all experts' pairs; count 0 where there are not so many.
__device__ PairRange tile_of_pairs(std::int64_t index, std::int64_t experts, const std::int64_t* offsets) {
  for (std::int64_t e = 0; e < experts; ++e) {
    const std::int64_t count = offsets[e + 1] - offsets[e], tiles = (count + tile - 1) / tile;
    if (index < tiles) return {e, offsets[e] + index * tile, at_most_a_tile(count - index * tile)};
    index -= tiles;
  }
  return {0, 0, 0};
}

/// The number of tiles is known to the device alone: there are no more than this.
std::int64_t most_tiles(const ExpertPairs& pairs) {
  return pairs.rows.elements() / tile + pairs.offsets.elements() - 1;
}

/// y = x w[e]ᵀ, or x w[e]: `width` of x, `columns` of y.
template <bool is_transposed>
__global__ void rows_kernel(std::int64_t experts, const std::int64_t* offsets, std::int64_t width, std::int64_t columns,
                            Elements x, Elements w, Elements y) {
  const PairRange pairs = tile_of_pairs(blockIdx.x, experts, offsets);
  if (pairs.count == 0) return;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * tile;
  const std::int64_t first_x = pairs.begin * width, first_y = pairs.begin * columns + column;
  const std::int64_t first_w = pairs.expert * width * columns;
  multiply_tile<Inner::second, is_transposed ? Inner::first : Inner::second>(
      pairs.count, at_most_a_tile(columns - column), width,
      [&](std::int64_t i, std::int64_t k) { return x[first_x + i * width + k]; },
      [&](std::int64_t k, std::int64_t j) {
        return is_transposed ? w[first_w + (column + j) * width + k] : w[first_w + k * columns + column + j];
      },
      [&](std::int64_t i, std::int64_t j, float sum) { y.set(first_y + i * columns + j, sum); });
}

template <bool is_transposed>
void multiply_rows(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& w, const Tensor& y) {
  const dim3 grid(blocks(most_tiles(pairs)), blocks(ceil_div(y.size(1), tile)));
  launch(device, rows_kernel<is_transposed>, grid, threads, w.size(0), pairs.offsets.data<std::int64_t>(), x.size(1),
         y.size(1), Elements(x), Elements(w), Elements(y));
}

/// dw[e] += dyᵀ x.
__global__ void weight_kernel(const std::int64_t* offsets, std::int64_t out, std::int64_t in, Elements dy, Elements x,
                              float* dw) {
  const std::int64_t expert = blockIdx.z, begin = offsets[expert], count = offsets[expert + 1] - begin;
  if (count == 0) return;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * tile;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * tile;
  multiply_tile<Inner::first, Inner::second>(
      at_most_a_tile(out - row), at_most_a_tile(in - column), count,
      [&](std::int64_t i, std::int64_t k) { return dy[(begin + k) * out + row + i]; },
      [&](std::int64_t k, std::int64_t j) { return x[(begin + k) * in + column + j]; },
      [&](std::int64_t i, std::int64_t j, float sum) { dw[(expert * out + row + i) * in + column + j] += sum; });
}

/// A block has a row.
template <int n>
__global__ void add_pairs_kernel(std::int64_t width, std::int64_t chosen, const std::int64_t* places, Elements x,
                                 const float* weights, Elements y) {
  const std::int64_t row = blockIdx.x, first = row * chosen;
  for (std::int64_t c = threadIdx.x * n; c < width; c += threads * n) {
    Pack<n> sum = {};
    for (std::int64_t i = first; i < first + chosen; ++i) {
      const float weight = weights == nullptr ? 1.0f : weights[i];
      const Pack<n> in = x.load<n>(places[i] * width + c);
#pragma unroll
      for (int j = 0; j < n; ++j) sum.values[j] += weight * in.values[j];
    }
    y.store<n>(row * width + c, sum);
  }
}

/// A block has a pair.
__global__ void add_pairs_backward_kernel(std::int64_t width, std::int64_t chosen, const std::int64_t* places,
                                          Elements dy, Elements x, const float* weights, Elements dx, float* dweights) {
  const std::int64_t i = blockIdx.x, row = i / chosen * width, place = places[i] * width;
  const float weight = weights == nullptr ? 1.0f : weights[i];
  float dot = 0;
  for (std::int64_t c = threadIdx.x; c < width; c += threads) {
    const float d = dy[row + c];
    if (!dx.empty()) dx.set(place + c, weight * d);
    if (dweights != nullptr) dot += d * x[place + c];
  }
  if (dweights == nullptr) return;
  dot = reduce_block(dot, Sum());
  if (threadIdx.x == 0) dweights[i] = dot;
}

float* fp32_or_null(const Tensor& tensor) { return tensor.empty() ? nullptr : tensor.f32(); }

}  // namespace

void choose_experts_forward(Device& device, const Tensor& logits, const Tensor& scale, const ExpertChoice& choice) {
  const int experts = static_cast<int>(logits.size(1)), n = static_cast<int>(choice.experts.size(1));
  mtp::launch(device, choose_kernel, blocks(logits.size(0)), warp_size, 2 * n * sizeof(int), experts, n, logits.f32(),
              Elements(scale), choice.experts.data<std::int64_t>(), choice.shares.f32(), choice.weights.f32());
}

void choose_experts_backward(Device& device, const Tensor& dweights, const ExpertChoice& choice, const Tensor& scale,
                             const Tensor& dlogits, const Tensor& dscale) {
  const int experts = static_cast<int>(dlogits.size(1)), n = static_cast<int>(choice.experts.size(1));
  const std::int64_t* chosen = choice.experts.data<std::int64_t>();
  launch(device, choose_backward_kernel, blocks(dlogits.size(0)), warp_size, experts, n, dweights.f32(), chosen,
         choice.shares.f32(), Elements(scale), dlogits.f32());
  if (dscale.empty()) return;
  launch(device, scale_gradient_kernel, blocks(experts), threads, choice.experts.elements(), dweights.f32(), chosen,
         choice.shares.f32(), dscale.f32());
}

void sort_by_expert(Device& device, const Tensor& experts, const ExpertPairs& pairs) {
  const std::int64_t count = pairs.offsets.elements() - 1, *chosen = experts.data<std::int64_t>();
  std::int64_t* const offsets = pairs.offsets.data<std::int64_t>();
  launch(device, count_kernel, blocks(count), threads, experts.elements(), chosen, offsets + 1);
  launch(device, offsets_kernel, 1, 1, count, offsets);
  launch(device, place_kernel, blocks(count), threads, experts.elements(), experts.size(1), chosen, offsets,
         pairs.rows.data<std::int64_t>(), pairs.places.data<std::int64_t>());
}

void expert_linear_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& w,
                           const Tensor& y) {
  multiply_rows<true>(device, pairs, x, w, y);
}

void expert_linear_backward_input(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& w,
                                  const Tensor& dx) {
  multiply_rows<false>(device, pairs, dy, w, dx);
}

void expert_linear_backward_weight(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                                   const Tensor& dw) {
  const std::int64_t out = dw.size(1), in = dw.size(2);
  const dim3 grid(blocks(ceil_div(out, tile)), blocks(ceil_div(in, tile)), blocks(dw.size(0)));
  launch(device, weight_kernel, grid, threads, pairs.offsets.data<std::int64_t>(), out, in, Elements(dy), Elements(x),
         dw.f32());
}

void add_pairs_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& weights,
                       const Tensor& y) {
  const std::int64_t width = y.size(1);
  with_pack(is_packed({width}, {&x, &y}), [&](auto n) {
    launch(device, add_pairs_kernel<n()>, blocks(y.size(0)), threads, width, pairs.places.size(1),
           pairs.places.data<std::int64_t>(), Elements(x), fp32_or_null(weights), Elements(y));
  });
}

void add_pairs_backward(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                        const Tensor& weights, const Tensor& dx, const Tensor& dweights) {
  launch(device, add_pairs_backward_kernel, blocks(pairs.places.elements()), threads, dy.size(1), pairs.places.size(1),
         pairs.places.data<std::int64_t>(), Elements(dy), Elements(x), fp32_or_null(weights), Elements(dx),
         fp32_or_null(dweights));
}

}  // namespace mtp::ops::cuda
