#include "mtp/ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "element_type.h"
#include "gemm.h"
#include "parallel.h"
#include "vector_math.h"

namespace mtp::ops::cpu {

namespace {

// A block of scores takes 32 KiB: small enough for a first-level cache, large enough for products at the full rate.
constexpr std::int64_t query_block = 64;
constexpr std::int64_t key_block = 128;

/// One block of scores or of their gradients; row i belongs to the block's i-th query.
struct Block {
  alignas(64) float values[query_block * key_block];
  float* row(std::int64_t i) { return values + i * key_block; }
};

/// One head of one sequence in a packed tensor [T, heads, d].
struct Head {
  Head(const Tensor& x, std::int64_t first_row, std::int64_t head)
      : data(x.f32() + (first_row * x.size(1) + head) * x.size(2)), stride(x.size(1) * x.size(2)), width(x.size(2)) {}

  float* row(std::int64_t t) const { return data + t * stride; }
  void set_zero(Range rows) const {
    for (std::int64_t t = rows.begin; t < rows.end; ++t) std::fill_n(row(t), width, 0.0f);
  }

  float* data;
  std::int64_t stride, width;
};

/// The mask on one sequence.
struct Visibility {
  AttentionMask mask;
  std::int64_t length;

  /// Keys that any of the queries sees: both ends of a row's interval are monotonic in t, so the outer rows bound them.
  Range keys_of(Range queries) const {
    const std::int64_t first = queries.begin, last = queries.end - 1;
    return {std::min(mask.begin(first, length), mask.begin(last, length)),
            std::max(mask.end(first, length), mask.end(last, length))};
  }

  /// The part of a block of keys that query t sees, counted from the block's begin; may be empty.
  Range seen(std::int64_t t, Range keys) const {
    const std::int64_t begin = std::clamp(mask.begin(t, length), keys.begin, keys.end);
    return {begin - keys.begin, std::clamp(mask.end(t, length), begin, keys.end) - keys.begin};
  }
};

/// block = a bᵀ, for a's rows `queries` and b's rows `keys`.
void multiply(const Head& a, Range queries, const Head& b, Range keys, Block& block) {
  cpu::gemm('n', 't', queries.size(), keys.size(), a.width, 1, a.row(queries.begin), a.stride, b.row(keys.begin),
            b.stride, 0, block.values, key_block);
}

/// c's rows `queries` += block · b's rows `keys`
void add_product(Block& block, const Head& b, Range keys, const Head& c, Range queries) {
  cpu::gemm('n', 'n', queries.size(), b.width, keys.size(), 1, block.values, key_block, b.row(keys.begin), b.stride, 1,
            c.row(queries.begin), c.stride);
}

/// c's rows `keys` += blockᵀ · b's rows `queries`
void add_transposed_product(Block& block, const Head& b, Range queries, const Head& c, Range keys) {
  cpu::gemm('t', 'n', keys.size(), b.width, queries.size(), 1, block.values, key_block, b.row(queries.begin), b.stride,
            1, c.row(keys.begin), c.stride);
}

float dot(const float* a, const float* b, std::int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void scale_row(float* x, std::int64_t n, float factor) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void set_zero_outside(float* row, Range seen, std::int64_t n) {
  std::fill(row, row + seen.begin, 0.0f);
  std::fill(row + seen.end, row + n, 0.0f);
}

/// The softmax of one query while its keys come block by block: exponentials are relative to the largest score so far.
struct OnlineSoftmax {
  float maximum = -std::numeric_limits<float>::infinity();
  float sum = 0;

  /// Turns the seen scores into exponentials. Returns the factor for what was summed with the maximum before.
  float add(float* scores, Range seen) {
    float largest = maximum;
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = seen.begin; j < seen.end; ++j) largest = scores[j] > largest ? scores[j] : largest;
    float added = 0;
#pragma omp simd reduction(+ : added)
    for (std::int64_t j = seen.begin; j < seen.end; ++j) {
      scores[j] = cpu::exp_f32(scores[j] - largest);
      added += scores[j];
    }
    const float factor = cpu::exp_f32(maximum - largest);
    maximum = largest;
    sum = sum * factor + added;
    return factor;
  }
};

void forward_block(const Visibility& visibility, Range queries, const Head& q, const Head& k, const Head& v,
                   const Head& out, float* lse) {
  OnlineSoftmax softmax[query_block];
  Block probabilities;
  out.set_zero(queries);
  for_each_part(visibility.keys_of(queries), key_block, [&](Range keys) {
    multiply(q, queries, k, keys, probabilities);
    for (std::int64_t i = 0; i < queries.size(); ++i) {
      const Range seen = visibility.seen(queries.begin + i, keys);
      float* row = probabilities.row(i);
      if (seen.size() > 0) scale_row(out.row(queries.begin + i), out.width, softmax[i].add(row, seen));
      set_zero_outside(row, seen, keys.size());
    }
    add_product(probabilities, v, keys, out, queries);
  });
  for (std::int64_t i = 0; i < queries.size(); ++i) {
    scale_row(out.row(queries.begin + i), out.width, 1.0f / softmax[i].sum);
    lse[queries.begin + i] = softmax[i].maximum + std::log(softmax[i].sum);
  }
}

/// What the backward of one head reads and, in dq, dk and dv, adds to. dk and dv are the head's own, or unused.
struct HeadBackward {
  Head dout, q, k, v, out;
  const float* lse;
  Head dq, dk, dv;
  bool with_keys;
};

void backward_block(const Visibility& visibility, Range queries, const HeadBackward& head) {
  Block probabilities, dscores;
  // Row i's softmax gives dscore = p · (dp - Σ p dp), and Σ p dp = dout · out.
  float mean[query_block];
  for (std::int64_t i = 0; i < queries.size(); ++i)
    mean[i] = dot(head.dout.row(queries.begin + i), head.out.row(queries.begin + i), head.out.width);

  for_each_part(visibility.keys_of(queries), key_block, [&](Range keys) {
    multiply(head.q, queries, head.k, keys, probabilities);
    multiply(head.dout, queries, head.v, keys, dscores);
    for (std::int64_t i = 0; i < queries.size(); ++i) {
      const Range seen = visibility.seen(queries.begin + i, keys);
      const float lse = head.lse[queries.begin + i];
      float *p = probabilities.row(i), *ds = dscores.row(i);
#pragma omp simd
      for (std::int64_t j = seen.begin; j < seen.end; ++j) {
        p[j] = cpu::exp_f32(p[j] - lse);
        ds[j] = p[j] * (ds[j] - mean[i]);
      }
      set_zero_outside(p, seen, keys.size());
      set_zero_outside(ds, seen, keys.size());
    }
    add_product(dscores, head.k, keys, head.dq, queries);
    if (!head.with_keys) return;
    add_transposed_product(dscores, head.q, queries, head.dk, keys);
    add_transposed_product(probabilities, head.dout, queries, head.dv, keys);
  });
}

/// y[t, g] = Σ over the query heads of group g, in their order, of x[t, h].   x [T, heads, d], y [T, kv_heads, d]
void sum_groups(const Device& device, const Tensor& x, const Tensor& y) {
  const std::int64_t width = y.size(2), heads_per_group = x.size(1) / y.size(1);
  cpu::parallel_pieces(device, y.size(0) * y.size(1), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t group = begin; group < end; ++group) {
      const float* in = x.f32() + group * heads_per_group * width;
      float* out = y.f32() + group * width;
      std::copy_n(in, width, out);
      for (std::int64_t h = 1; h < heads_per_group; ++h) {
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) out[i] += in[h * width + i];
      }
    }
  });
}

void forward(const Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
             const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  const std::int64_t heads = q.size(1), heads_per_group = heads / k.size(1);
  for (std::int64_t b = 0; b < sequences.count(); ++b) {
    const std::int64_t first = sequences.begin(b), length = sequences.length(b);
    const std::int64_t blocks = (length + query_block - 1) / query_block;
    cpu::parallel_for(device, heads * blocks, [&](std::int64_t task) {
      const std::int64_t h = task / blocks, begin = task % blocks * query_block;
      const Range queries{begin, std::min(begin + query_block, length)};
      forward_block({mask.from_row(first), length}, queries, Head(q, first, h), Head(k, first, h / heads_per_group),
                    Head(v, first, h / heads_per_group), Head(out, first, h), lse.f32() + h * sequences.rows() + first);
    });
  }
}

void backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& dq,
              const Tensor& dk, const Tensor& dv) {
  const std::int64_t heads = q.size(1), heads_per_group = heads / k.size(1);
  const bool with_keys = !dk.empty();
  // Every query head sums into its own dk and dv: no two tasks write the same row, and the heads are added in order.
  const Tensor head_dk = with_keys ? device.empty(q.shape()) : dq;
  const Tensor head_dv = with_keys ? device.empty(q.shape()) : dq;
  cpu::parallel_for(device, sequences.count() * heads, [&](std::int64_t task) {
    const std::int64_t b = task / heads, h = task % heads, group = h / heads_per_group;
    const std::int64_t first = sequences.begin(b), length = sequences.length(b);
    const HeadBackward head{Head(dout, first, h),    Head(q, first, h),
                            Head(k, first, group),   Head(v, first, group),
                            Head(out, first, h),     lse.f32() + h * sequences.rows() + first,
                            Head(dq, first, h),      Head(head_dk, first, h),
                            Head(head_dv, first, h), with_keys};
    const Range rows{0, length};
    for (const Head& gradient : {head.dq, head.dk, head.dv}) gradient.set_zero(rows);
    for_each_part(rows, query_block, [&](Range queries) {
      backward_block({mask.from_row(first), length}, queries, head);
    });
  });
  if (!with_keys) return;
  sum_groups(device, head_dk, dk);
  sum_groups(device, head_dv, dv);
}

}  // namespace

void attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  const Tensor fp32_out = cpu::fp32_for(device, out);
  forward(device, mask, sequences, cpu::as_fp32(device, q), cpu::as_fp32(device, k), cpu::as_fp32(device, v), fp32_out,
          lse);
  cpu::store(device, fp32_out, out);
}

void attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const Tensor fp32_dq = cpu::fp32_for(device, dq), fp32_dk = cpu::fp32_for(device, dk),
               fp32_dv = cpu::fp32_for(device, dv);
  backward(device, mask, sequences, cpu::as_fp32(device, dout), cpu::as_fp32(device, q), cpu::as_fp32(device, k),
           cpu::as_fp32(device, v), cpu::as_fp32(device, out), lse, fp32_dq, fp32_dk, fp32_dv);
  cpu::store(device, fp32_dq, dq);
  cpu::store(device, fp32_dk, dk);
  cpu::store(device, fp32_dv, dv);
}

}  // namespace mtp::ops::cpu
