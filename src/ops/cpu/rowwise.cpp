#include "mtp/ops/rowwise.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../prepared.h"
#include "element_type.h"
#include "mtp/ops/experts.h"
#include "parallel.h"
#include "vector_math.h"

namespace mtp::ops::cpu {

namespace {

constexpr std::int64_t lanes = 16;  // on every processor, so that the bits are the same

/// Sums of so many lanes that the vector registers hold beside the operands.
#ifdef __AVX512F__
constexpr std::int64_t sums_in_registers = 24;
#else
constexpr std::int64_t sums_in_registers = 6;
#endif

/// Rows that share one pass over the weights, and the outputs that are summed at a time.
constexpr std::int64_t most_rows = 6;
constexpr std::int64_t outputs_beside(std::int64_t rows) {
  return std::clamp<std::int64_t>(sums_in_registers / rows, 1, 8);
}

/// Elements that are worth a task of their own: waking a thread takes about as long as reading these.
constexpr std::int64_t elements_per_task = 1 << 15;

/// Rows of a matrix of fp32 or bf16, `stride` elements apart.
template <typename T>
struct Rows {
  const T* data;
  std::int64_t stride;
  Rows from(std::int64_t row) const { return {data + row * stride, stride}; }
};

inline float sum_of_lanes(const float* sum) {
  float s[lanes / 2];
  for (std::int64_t lane = 0; lane < lanes / 2; ++lane) s[lane] = sum[lane] + sum[lane + lanes / 2];
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/// y[r · y_stride + o] = x's row r · w's row o, over `width` elements. Each is summed in the same order whatever `rows`
/// and `outputs` are: in lanes with fused multiply-adds, then the lanes.
template <std::int64_t rows, std::int64_t outputs, typename T>
void multiply_block(Rows<float> x, Rows<T> w, std::int64_t width, float* y, std::int64_t y_stride) {
  float sums[rows][outputs][lanes] = {};
  std::int64_t k = 0;
  for (; k + lanes <= width; k += lanes) {
#pragma GCC unroll 8
    for (std::int64_t o = 0; o < outputs; ++o) {
      const T* b = w.data + o * w.stride + k;
      // Few streams at a time are too few to keep the memory busy: the next outputs are on their way meanwhile.
      if constexpr (rows > 1) __builtin_prefetch(b + outputs * w.stride, 0, 2);
#pragma GCC unroll 8
      for (std::int64_t r = 0; r < rows; ++r) {
        const float* a = x.data + r * x.stride + k;
#pragma omp simd
        for (std::int64_t lane = 0; lane < lanes; ++lane)
          sums[r][o][lane] = std::fma(a[lane], static_cast<float>(b[lane]), sums[r][o][lane]);
      }
    }
  }
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t o = 0; o < outputs; ++o) {
      float* sum = sums[r][o];
      for (std::int64_t rest = k; rest < width; ++rest)
        sum[rest - k] =
            std::fma(x.data[r * x.stride + rest], static_cast<float>(w.data[o * w.stride + rest]), sum[rest - k]);
      y[r * y_stride + o] = sum_of_lanes(sum);
    }
}

template <std::int64_t rows, typename T>
void multiply_rows(Rows<float> x, Rows<T> w, std::int64_t outputs, std::int64_t width, float* y,
                   std::int64_t y_stride) {
  constexpr std::int64_t together = outputs_beside(rows);
  std::int64_t o = 0;
  for (; o + together <= outputs; o += together) multiply_block<rows, together>(x, w.from(o), width, y + o, y_stride);
  for (; o < outputs; ++o) multiply_block<rows, 1>(x, w.from(o), width, y + o, y_stride);
}

/// The same for any number of rows.
template <typename T>
void multiply(Rows<float> x, std::int64_t rows, Rows<T> w, std::int64_t outputs, std::int64_t width, float* y,
              std::int64_t y_stride) {
  using Kernel = decltype(&multiply_rows<1, T>);
  constexpr Kernel kernels[most_rows] = {multiply_rows<1, T>, multiply_rows<2, T>, multiply_rows<3, T>,
                                         multiply_rows<4, T>, multiply_rows<5, T>, multiply_rows<6, T>};
  for (std::int64_t r = 0; r < rows; r += most_rows)
    kernels[std::min(most_rows, rows - r) - 1](x.from(r), w, outputs, width, y + r * y_stride, y_stride);
}

template <typename T>
Rows<T> rows_of(const Tensor& matrix) {
  return {cpu::elements_of<T>(matrix), matrix.size(-1)};
}

/// body(begin, end) in parallel for parts of `n` things that read `elements` each.
template <typename Body>
void for_parts(const Device& device, std::int64_t n, std::int64_t elements, const Body& body) {
  constexpr std::int64_t alignment = 16;  // a cache line of outputs
  const std::int64_t part = (elements_per_task / elements + alignment) / alignment * alignment;
  cpu::parallel_pieces(device, n, part, body);
}

/// body(j, row, count) for the keys begin … end - 1 in runs that lie one after another in a ring of n rows.
template <typename Body>
void for_each_run(std::int64_t begin, std::int64_t end, std::int64_t n, const Body& body) {
  for (std::int64_t j = begin; j < end;) {
    const std::int64_t row = j % n, count = std::min(n - row, end - j);
    body(j, row, count);
    j += count;
  }
}

/// One head of a text's keys or values.
template <typename T>
struct Ring {
  Ring(const Tensor& x, std::int64_t text, std::int64_t head)
      : rows{cpu::elements_of<T>(x) + (text * x.size(1) * x.size(2) + head) * x.size(3), x.size(2) * x.size(3)},
        n(x.size(1)),
        width(x.size(3)) {}

  Rows<T> rows;
  std::int64_t n, width;
};

/// Replaces scores by exponentials and returns their sum.
float exponentials(std::vector<float>& scores) {
  const auto n = static_cast<std::int64_t>(scores.size());
  float *z = scores.data(), maximum = z[0];
#pragma omp simd reduction(max : maximum)
  for (std::int64_t j = 0; j < n; ++j) maximum = z[j] > maximum ? z[j] : maximum;
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) z[j] = cpu::exp_f32(z[j] - maximum);
  float sum[lanes] = {};
  for (std::int64_t j = 0; j < n; ++j) sum[j % lanes] += z[j];
  return sum_of_lanes(sum);
}

/// One query over the keys begin … end - 1.
template <typename T>
void attend(const float* q, const Ring<T>& k, const Ring<T>& v, std::int64_t begin, std::int64_t end, float* out) {
  thread_local std::vector<float> scores;
  scores.resize(static_cast<std::size_t>(end - begin));
  for_each_run(begin, end, k.n, [&](std::int64_t j, std::int64_t row, std::int64_t count) {
    multiply(Rows<float>{q, k.width}, 1, k.rows.from(row), count, k.width, scores.data() + (j - begin), count);
  });
  const float factor = 1.0f / exponentials(scores);
  std::fill_n(out, v.width, 0.0f);
  for_each_run(begin, end, v.n, [&](std::int64_t j, std::int64_t row, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const T* value = v.rows.from(row + i).data;
      const float probability = scores[j - begin + i] * factor;
#pragma omp simd
      for (std::int64_t c = 0; c < v.width; ++c) out[c] = std::fma(probability, static_cast<float>(value[c]), out[c]);
    }
  });
}

/// Puts each row where it stands.
void put_in_rings(Device& device, const RowPlaces& places, const Tensor& rows, const Tensor& rings) {
  const std::int64_t n = rings.size(1), width = rings.size(2) * rings.size(3);
  const Shape row{width};
  for (std::int64_t i = 0; i < rows.size(0); ++i) {
    const std::int64_t text = places.texts.data<std::int64_t>()[i], j = places.positions.data<std::int64_t>()[i];
    device.copy(rows.slice(i * width, row), rings.slice((text * n + j % n) * width, row));
  }
}

/// y = x wᵀ, x and y in fp32.
void multiply(const Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  const std::int64_t rows = x.size(0), in = x.size(1), out = w.size(0);
  cpu::with_type_of(w, [&]<typename T>(T) {
    for_parts(device, out, in, [&](std::int64_t begin, std::int64_t end) {
      multiply(rows_of<float>(x), rows, rows_of<T>(w).from(begin), end - begin, in, y.f32() + begin, out);
    });
  });
}

void linear(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  const Tensor sums = cpu::fp32_for(device, y);
  multiply(device, cpu::as_fp32(device, x), w, sums);
  cpu::store(device, sums, y);
}

/// y[p] = w[experts[p]] x[p / per_row] of every pair p of a row and an expert, in fp32.
void multiply_experts(const Device& device, const Tensor& x, std::int64_t per_row, const Tensor& experts,
                      const Tensor& w, const Tensor& y) {
  const std::int64_t in = w.size(2), out = w.size(1);
  const std::int64_t part = std::max<std::int64_t>(1, elements_per_task / in), parts = (out + part - 1) / part;
  cpu::with_type_of(w, [&]<typename T>(T) {
    cpu::parallel_for(device, experts.elements() * parts, [&](std::int64_t i) {
      const std::int64_t pair = i / parts, begin = i % parts * part, expert = experts.data<std::int64_t>()[pair];
      const Rows<T> matrix{cpu::elements_of<T>(w) + expert * out * in, in};
      multiply(rows_of<float>(x).from(pair / per_row), 1, matrix.from(begin), std::min(part, out - begin), in,
               y.f32() + pair * out + begin, out);
    });
  });
}

void gate(Device& device, const Tensor& x, const Tensor& w, const Tensor& factors, const Tensor& y) {
  const Tensor gates = device.empty(y.shape(), y.dtype());
  linear(device, x, w, gates);
  gated_gelu_forward(device, gates, factors, y);
}

}  // namespace

void rowwise_linear(Device& device, const RowwiseInput& x, const std::vector<Tensor>& w, const std::vector<Tensor>& y) {
  const Tensor in = prepared(device, x);
  for (std::size_t i = 0; i < w.size(); ++i) linear(device, in, w[i], y[i]);
}

void rowwise_gated_linear(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& up,
                          const Tensor& y) {
  const Tensor in = prepared(device, x), factors = device.empty(y.shape(), y.dtype());
  linear(device, in, up, factors);
  cpu::gate(device, in, gate, factors, y);
}

void rowwise_gate(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& factors, const Tensor& y) {
  cpu::gate(device, prepared(device, x), gate, factors, y);
}

void rowwise_experts(Device& device, const Tensor& x, const Tensor& experts, const Tensor& weights,
                     const Tensor& gate_up, const Tensor& down, const Tensor& y) {
  const std::int64_t pairs = experts.elements(), n = experts.size(1), inner = down.size(2), width = y.size(1);
  const auto rounded = [&](const Tensor& values) {
    const Tensor stored = device.empty(values.shape(), y.dtype());
    convert(device, values, stored);
    return stored;
  };
  const Tensor gates_and_ups = device.empty({pairs, 2 * inner});
  multiply_experts(device, cpu::as_fp32(device, x), n, experts, gate_up, gates_and_ups);
  const Tensor gates = device.empty({pairs, inner}, y.dtype()), ups = device.empty({pairs, inner}, y.dtype());
  split_columns(device, rounded(gates_and_ups), gates, ups);
  gated_gelu_forward(device, gates, ups, gates);
  const Tensor outputs = device.empty({pairs, width});
  multiply_experts(device, cpu::as_fp32(device, gates), 1, experts, down, outputs);
  std::vector<std::int64_t> order(static_cast<std::size_t>(pairs));
  std::iota(order.begin(), order.end(), 0);
  add_pairs_forward(device, {.places = device.from_host(order).view(experts.shape())}, rounded(outputs), weights, y);
}

void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, std::int64_t none, const Tensor& choices) {
  const std::int64_t rows = x.size(0), vocabulary = w.size(0);
  const Tensor logits = device.empty({rows, vocabulary});
  multiply(device, cpu::as_fp32(device, x), w, logits);
  cpu::parallel_for(device, rows, [&](std::int64_t row) {
    const float* z = logits.f32() + row * vocabulary;
    std::int64_t best = -1;
    for (std::int64_t token = 0; token < vocabulary; ++token)
      if (best < 0 ? !std::isnan(z[token]) : z[token] > z[best]) best = token;
    choices.data<std::int64_t>()[row] = best < 0 ? none : best;
  });
}

void rowwise_heads(Device& device, const RmsNorm& norm, const Rope& rope, const RowPlaces& places,
                   const std::vector<Heads>& heads) {
  for (const Heads& each : heads) {
    const Tensor& x = each.x;
    const Tensor y = each.is_ring ? device.empty(x.shape(), x.dtype()) : each.y;
    rms_norm_forward(device, norm, x, each.weight, y, device.empty({x.elements() / x.size(-1)}));
    if (each.is_rotated) rope_forward(device, rope, Sequences::at(places.positions), y, y);
    if (each.is_ring) put_in_rings(device, places, y, each.y);
  }
}

void put_in_ring(Device& device, const Tensor& rows, const Tensor& ring) {
  const std::int64_t n = ring.size(0), width = ring.size(1) * ring.size(2);
  for (std::int64_t i = std::max<std::int64_t>(0, rows.size(0) - n); i < rows.size(0);) {
    const std::int64_t row = i % n, count = std::min(n - row, rows.size(0) - i);
    device.copy(rows.slice(i * width, {count, width}), ring.slice(row * width, {count, width}));
    i += count;
  }
}

void rowwise_attention(Device& device, const AttentionMask& mask, const RowPlaces& places, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out) {
  const std::int64_t rows = q.size(0), heads = q.size(1), width = q.size(2), per_group = heads / k.size(2);
  const std::int64_t *positions = places.positions.data<std::int64_t>(), *texts = places.texts.data<std::int64_t>();
  std::int64_t seen = 0;  // by all rows
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t keys = mask.end(positions[row], 0) - mask.begin(positions[row], 0);
    MTP_ASSERT(keys > 0 && keys <= k.size(1) && texts[row] < k.size(0));
    seen += keys;
  }
  const std::int64_t queries = std::max<std::int64_t>(1, elements_per_task * rows / (2 * seen * width));
  const Tensor q_fp32 = cpu::as_fp32(device, q), out_fp32 = cpu::fp32_for(device, out);
  cpu::with_type_of(k, [&]<typename T>(T) {
    cpu::parallel_pieces(device, rows * heads, queries, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t t = positions[i / heads], text = texts[i / heads], group = i % heads / per_group;
        attend<T>(q_fp32.f32() + i * width, {k, text, group}, {v, text, group}, mask.begin(t, 0), mask.end(t, 0),
                  out_fp32.f32() + i * width);
      }
    });
  });
  cpu::store(device, out_fp32, out);
}

}  // namespace mtp::ops::cpu
