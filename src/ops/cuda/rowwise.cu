#include "mtp/ops/rowwise.h"

#include "frequencies.cuh"
#include "loss.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;

// The largest logit: of slices first, then of the slices' own.
constexpr std::int64_t tokens_of_slice = 16 * threads;

__global__ void slice_choice_kernel(std::int64_t vocabulary, const float* z, std::int64_t* choices) {
  const float* const row = z + blockIdx.y * vocabulary;
  const std::int64_t begin = blockIdx.x * tokens_of_slice;
  const std::int64_t count = begin + tokens_of_slice < vocabulary ? tokens_of_slice : vocabulary - begin;
  const std::int64_t best = best_of(
      count, -1, [&](std::int64_t i) { return row[begin + i]; }, [&](std::int64_t i) { return begin + i; });
  if (threadIdx.x == 0) choices[blockIdx.y * gridDim.x + blockIdx.x] = best;
}

__global__ void choice_kernel(std::int64_t vocabulary, std::int64_t slices, const float* z,
                              const std::int64_t* of_slices, std::int64_t none, std::int64_t* choices) {
  const float* const row = z + blockIdx.x * vocabulary;
  const std::int64_t* const of_row = of_slices + blockIdx.x * slices;
  const auto id = [&](std::int64_t i) { return of_row[i]; };
  const std::int64_t best = best_of(
      slices, none, [&](std::int64_t i) { return id(i) < 0 ? NAN : row[id(i)]; }, id);
  if (threadIdx.x == 0) choices[blockIdx.x] = best;
}

/// ops::RowPlaces as a kernel sees them.
struct Places {
  const std::int64_t *positions, *texts;

  explicit Places(const RowPlaces& places)
      : positions(places.positions.data<std::int64_t>()), texts(places.texts.data<std::int64_t>()) {}
};

constexpr int most_heads_tensors = 3;

/// ops::Heads as a kernel sees it. `ring`: the rows of a text's; 0 where y is none.
struct HeadsOf {
  Elements x, weight, y;
  std::int64_t heads, ring;
  bool has_weight, is_rotated;
};
struct AllHeads {
  HeadsOf of[most_heads_tensors];
  std::int64_t heads;  // of a row, in all tensors
};

/// A warp norms and rotates a head.
template <int n>
__global__ void heads_kernel(AllHeads all, std::int64_t rows, std::int64_t width, float eps, Frequencies frequencies,
                             std::int64_t position_offset, Places places) {
  const std::int64_t task = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  const std::int64_t row = task / all.heads, lane = threadIdx.x % warp_size, half = width / 2;
  if (row >= rows) return;
  std::int64_t head = task % all.heads;
  int tensor = 0;
  while (head >= all.of[tensor].heads) head -= all.of[tensor++].heads;
  const HeadsOf& heads = all.of[tensor];
  const std::int64_t position = places.positions[row];
  const std::int64_t target = heads.ring > 0 ? places.texts[row] * heads.ring + position % heads.ring : row;
  const Elements x = heads.x.from((row * heads.heads + head) * width);
  const Elements y = heads.y.from((target * heads.heads + head) * width);

  float squares = 0;
  for (std::int64_t i = lane * n; i < width; i += warp_size * n) {
    const Pack<n> pack = x.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) squares += pack.values[j] * pack.values[j];
  }
  const float rrms = 1.0f / sqrtf(reduce_warp(squares, Sum()) / static_cast<float>(width) + eps);
  const auto normed = [&](std::int64_t i) {
    Pack<n> pack = x.load<n>(i), weight = {};
    if (heads.has_weight) weight = heads.weight.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j)
      pack.values[j] = x.rounded(pack.values[j] * rrms * (heads.has_weight ? weight.values[j] : 1.0f));
    return pack;
  };
  for (std::int64_t i = lane * n; i < half; i += warp_size * n) {
    Pack<n> low = normed(i), high = normed(i + half);
    if (heads.is_rotated) frequencies.rotate(low, high, i, position + position_offset, 1, x);
    y.store<n>(i, low);
    y.store<n>(i + half, high);
  }
}

/// A block moves a row.
template <int n>
__global__ void put_kernel(std::int64_t skipped, std::int64_t width, std::int64_t ring, Elements x, Elements y) {
  const std::int64_t row = skipped + blockIdx.x, target = row % ring;
  for (std::int64_t i = threadIdx.x * n; i < width; i += threads * n)
    y.store<n>(target * width + i, x.load<n>(row * width + i));
}

/// Rings of keys or values: those of a text's position j are in row j mod n of its ring.
struct Rings {
  Elements elements;
  std::int64_t n, kv_heads, width;

  explicit Rings(const Tensor& x) : elements(x), n(x.size(1)), kv_heads(x.size(2)), width(x.size(3)) {}
  __device__ std::int64_t begin_of(std::int64_t text, std::int64_t j, std::int64_t group) const {
    return ((text * n + j % n) * kv_heads + group) * width;
  }
};

// Attention of a few rows is split over spans of keys, so that few heads fill a GPU: span s is positions
// s · keys_of_span … whatever the rows and the ring are. Their results are combined in order.
constexpr int keys_of_span = 64;
constexpr int widest_head = 512;
constexpr int columns_of_thread = widest_head / threads;
constexpr int keys_together = 4;  // whose loads a warp has under way

/// What a span gives a row and head: its largest score, the sum of exponentials and the sums of values.
struct Spans {
  std::int64_t count;  // that there is room for
  float *largest, *sum, *values;

  __device__ std::int64_t place(std::int64_t row_and_head, std::int64_t span) const {
    return row_and_head * count + span;
  }
};

/// The keys that a row sees.
struct Seen {
  std::int64_t begin, end, first_span, spans;

  __device__ Seen(const AttentionMask& mask, std::int64_t t)
      : begin(mask.begin(t, 0)),
        end(mask.end(t, 0)),
        first_span(begin / keys_of_span),
        spans((end - 1) / keys_of_span - first_span + 1) {}
};

/// A block attends from one row to a span of one key head, for up to `most` of the heads that share it.
template <int n, int most>
__global__ void __launch_bounds__(threads, 2)
    span_kernel(AttentionMask mask, Places places, std::int64_t heads, Elements q, Rings k, Rings v, Spans spans) {
  __shared__ float query[most][widest_head];
  __shared__ float scores[most][keys_of_span];
  const std::int64_t row = blockIdx.z, text = places.texts[row], width = k.width, per_group = heads / k.kv_heads;
  const std::int64_t parts = (per_group + most - 1) / most, group = blockIdx.y / parts;
  const std::int64_t first_head = group * per_group + blockIdx.y % parts * most;
  const std::int64_t rest = (group + 1) * per_group - first_head;
  const int count = static_cast<int>(rest < most ? rest : most);
  const Seen seen(mask, places.positions[row]);
  if (static_cast<std::int64_t>(blockIdx.x) >= seen.spans) return;
  const std::int64_t span = (seen.first_span + blockIdx.x) * keys_of_span;
  const std::int64_t begin = span > seen.begin ? span : seen.begin;
  const std::int64_t end = span + keys_of_span < seen.end ? span + keys_of_span : seen.end;
  const int keys = static_cast<int>(end - begin);
  const int lane = static_cast<int>(threadIdx.x % warp_size), warp = static_cast<int>(threadIdx.x / warp_size);

  for (std::int64_t i = threadIdx.x; i < most * width; i += threads) {
    const std::int64_t h = i / width, column = i % width;
    query[h][column] = h < count ? q[((row * heads) + first_head + h) * width + column] : 0.0f;
  }
  __syncthreads();

  for (int j = warp * keys_together; j < keys; j += warps * keys_together) {
    float dots[keys_together][most] = {};
    for (std::int64_t i = lane * n; i < width; i += warp_size * n) {
      Pack<n> key[keys_together];
#pragma unroll
      for (int m = 0; m < keys_together; ++m)
        key[m] = k.elements.load<n>(k.begin_of(text, j + m < keys ? begin + j + m : end - 1, group) + i);
#pragma unroll
      for (int h = 0; h < most; ++h)
#pragma unroll
        for (int e = 0; e < n; ++e) {
          const float of_query = query[h][i + e];
#pragma unroll
          for (int m = 0; m < keys_together; ++m) dots[m][h] = fmaf(of_query, key[m].values[e], dots[m][h]);
        }
    }
#pragma unroll
    for (int m = 0; m < keys_together; ++m)
#pragma unroll
      for (int h = 0; h < most; ++h) {
        const float dot = reduce_warp(dots[m][h], Sum());
        if (lane == 0 && j + m < keys) scores[h][j + m] = dot;
      }
  }
  __syncthreads();

  // A warp replaces the scores of a head by their exponentials.
  if (warp < count) {
    const std::int64_t place = spans.place(row * heads + first_head + warp, blockIdx.x);
    float largest = -INFINITY, sum = 0;
    for (int j = lane; j < keys; j += warp_size) largest = Largest()(largest, scores[warp][j]);
    largest = reduce_warp(largest, Largest());
    for (int j = lane; j < keys; j += warp_size) {
      const float p = expf(scores[warp][j] - largest);
      scores[warp][j] = p;
      sum += p;
    }
    sum = reduce_warp(sum, Sum());
    if (lane == 0) {
      spans.largest[place] = largest;
      spans.sum[place] = sum;
    }
  }
  __syncthreads();

  float sums[columns_of_thread][most] = {};
#pragma unroll 8
  for (int j = 0; j < keys; ++j) {
    const std::int64_t at = v.begin_of(text, begin + j, group);
#pragma unroll
    for (int c = 0; c < columns_of_thread; ++c) {
      const std::int64_t column = threadIdx.x + c * threads;
      const float value = column < width ? v.elements[at + column] : 0.0f;
#pragma unroll
      for (int h = 0; h < most; ++h) sums[c][h] = fmaf(scores[h][j], value, sums[c][h]);
    }
  }
#pragma unroll
  for (int c = 0; c < columns_of_thread; ++c) {
    const std::int64_t column = threadIdx.x + c * threads;
#pragma unroll
    for (int h = 0; h < most; ++h)
      if (h < count && column < width)
        spans.values[spans.place(row * heads + first_head + h, blockIdx.x) * width + column] = sums[c][h];
  }
}

/// A block combines the spans of a row and head.
__global__ void combine_kernel(AttentionMask mask, Places places, std::int64_t heads, std::int64_t width, Spans spans,
                               Elements out) {
  const Seen seen(mask, places.positions[blockIdx.x / heads]);
  const std::int64_t begin = spans.place(blockIdx.x, 0), end = begin + seen.spans;
  float largest = -INFINITY, sum = 0;
  for (std::int64_t place = begin; place < end; ++place) largest = Largest()(largest, spans.largest[place]);
  for (std::int64_t place = begin; place < end; ++place) sum += spans.sum[place] * expf(spans.largest[place] - largest);
  for (std::int64_t column = threadIdx.x; column < width; column += threads) {
    float value = 0;
#pragma unroll 8
    for (std::int64_t place = begin; place < end; ++place)
      value = fmaf(spans.values[place * width + column], expf(spans.largest[place] - largest), value);
    out.set(blockIdx.x * width + column, value / sum);
  }
}

/// Of the heads that share a key head, those that a block handles.
template <typename Body>
void with_most_heads(std::int64_t per_group, const Body& body) {
  if (per_group <= 2)
    body(std::integral_constant<int, 2>());
  else if (per_group <= 4)
    body(std::integral_constant<int, 4>());
  else
    body(std::integral_constant<int, 8>());
}

}  // namespace

void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, std::int64_t none, const Tensor& choices) {
  const std::int64_t rows = x.size(0), vocabulary = w.size(0), slices = ceil_div(vocabulary, tokens_of_slice);
  const Tensor logits = device.empty({rows, vocabulary}), of_slices = device.empty({rows, slices}, DType::i64);
  rowwise_linear(device, x, {w}, {logits});
  launch(device, slice_choice_kernel, dim3(blocks(slices), blocks(rows)), threads, vocabulary, logits.f32(),
         of_slices.data<std::int64_t>());
  launch(device, choice_kernel, blocks(rows), threads, vocabulary, slices, logits.f32(), of_slices.data<std::int64_t>(),
         none, choices.data<std::int64_t>());
}

void rowwise_heads(Device& device, const RmsNorm& norm, const Rope& rope, const RowPlaces& places,
                   const std::vector<Heads>& heads) {
  const std::int64_t rows = heads[0].x.size(0), width = heads[0].x.size(2);
  AllHeads all = {};
  bool packed = true;
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const Heads& each = heads[i];
    all.of[i] = {.x = Elements(each.x),
                 .weight = Elements(each.weight),
                 .y = Elements(each.y),
                 .heads = each.x.size(1),
                 .ring = each.is_ring ? each.y.size(1) : 0,
                 .has_weight = !each.weight.empty(),
                 .is_rotated = each.is_rotated};
    all.heads += each.x.size(1);
    packed = packed && is_packed({width / 2}, {&each.x, &each.weight, &each.y});
  }
  with_pack(packed, [&](auto n) {
    launch(device, heads_kernel<n()>, blocks(ceil_div(rows * all.heads, warps)), threads, all, rows, width, norm.eps,
           Frequencies(rope), rope.position_offset, Places(places));
  });
}

void put_in_ring(Device& device, const Tensor& rows, const Tensor& ring) {
  const std::int64_t width = ring.size(1) * ring.size(2), kept = std::min(rows.size(0), ring.size(0));
  with_pack(is_packed({width}, {&rows, &ring}), [&](auto n) {
    launch(device, put_kernel<n()>, blocks(kept), threads, rows.size(0) - kept, width, ring.size(0), Elements(rows),
           Elements(ring));
  });
}

void rowwise_attention(Device& device, const AttentionMask& mask, const RowPlaces& places, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out) {
  MTP_ASSERT(q.size(2) <= widest_head);
  const std::int64_t rows = q.size(0), heads = q.size(1), width = q.size(2);
  const std::int64_t kv_heads = k.size(2), per_group = heads / kv_heads;
  // So many keys are seen at most, and one span more where they begin within one.
  const std::int64_t keys = mask.window > 0 ? std::min(mask.window, k.size(1)) : k.size(1);
  const std::int64_t most_spans = ceil_div(keys, keys_of_span) + (mask.window > 0 ? 1 : 0);
  const Tensor largest = device.empty({rows, heads, most_spans}), sum = device.empty({rows, heads, most_spans});
  const Tensor values = device.empty({rows, heads, most_spans, width});
  const Spans spans{most_spans, largest.f32(), sum.f32(), values.f32()};
  with_pack(is_packed({width}, {&k}), [&](auto n) {
    with_most_heads(per_group, [&](auto most) {
      const dim3 grid(blocks(most_spans), blocks(kv_heads * ceil_div(per_group, most())), blocks(rows));
      launch(device, span_kernel<n(), most()>, grid, threads, mask, Places(places), heads, Elements(q), Rings(k),
             Rings(v), spans);
    });
  });
  launch(device, combine_kernel, blocks(rows * heads), threads, mask, Places(places), heads, width, spans,
         Elements(out));
}

}  // namespace mtp::ops::cuda
