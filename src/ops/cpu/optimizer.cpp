#include "mtp/ops/optimizer.h"

#include <algorithm>
#include <cmath>

#include "../adamw.h"
#include "mtp/tensor/bfloat16.h"
#include "parallel.h"

namespace mtp::ops::cpu {

namespace {

/// Elements of `n` in the order of PyTorch's single-tensor implementation.
void update(const AdamWCoefficients& c, std::int64_t n, const float* g, float* w, float* m, float* v) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float scaled = g[i] * c.factor;
    m[i] += c.keep1 * (scaled - m[i]);
    v[i] = v[i] * c.beta2 + c.keep2 * scaled * scaled;
    w[i] = w[i] * c.decay + c.step_size * m[i] / (std::sqrt(v[i]) / c.root_correction + c.eps);
  }
}

void round_at_random(const AdamWShard& shard, std::int64_t begin, std::int64_t n, const float* m, const float* v) {
  auto *m_bits = shard.moment1.data<std::uint16_t>() + begin, *v_bits = shard.moment2.data<std::uint16_t>() + begin;
  std::array<std::uint32_t, 4> words{};
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t element = shard.first + begin + i;
    if (i == 0 || element % 4 == 0) words = shard.random.block(static_cast<std::uint64_t>(element / 4));
    const std::uint32_t word = words[static_cast<std::size_t>(element % 4)];
    m_bits[i] = rounded_at_random(m[i], word);
    v_bits[i] = rounded_at_random(v[i], word >> 16);
  }
}

/// Elements begin … end - 1 with moments in bf16, in pieces that stay in the cache.
void update_bf16(const AdamWCoefficients& c, const AdamWShard& shard, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t piece = 512;
  float m[piece], v[piece];
  for (; begin < end; begin += piece) {
    const std::int64_t n = std::min(piece, end - begin);
    std::copy_n(shard.moment1.data<BFloat16>() + begin, n, m);
    std::copy_n(shard.moment2.data<BFloat16>() + begin, n, v);
    update(c, n, shard.gradient.f32() + begin, shard.weight.f32() + begin, m, v);
    round_at_random(shard, begin, n, m, v);
  }
}

}  // namespace

void adamw(Device& device, const AdamW& adamw, std::span<const AdamWShard> shards) {
  const AdamWCoefficients c = coefficients_of(adamw);
  for (const AdamWShard& shard : shards) {
    cpu::parallel_pieces(device, shard.weight.elements(), 16384, [&](std::int64_t begin, std::int64_t end) {
      float* const w = shard.weight.f32() + begin;
      if (shard.moment1.dtype() == DType::bf16)
        update_bf16(c, shard, begin, end);
      else
        update(c, end - begin, shard.gradient.f32() + begin, w, shard.moment1.f32() + begin,
               shard.moment2.f32() + begin);
      if (shard.rounded_weight.empty()) return;
      BFloat16* const rounded = shard.rounded_weight.data<BFloat16>() + begin;
#pragma omp simd
      for (std::int64_t i = 0; i < end - begin; ++i) rounded[i] = w[i];
    });
  }
}

void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums) {
  cpu::parallel_for(device, sums.elements(), [&](std::int64_t b) {
    const float* g = gradient.f32() + b * block;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < block; ++i) sum += static_cast<double>(g[i]) * g[i];
    sums.data<double>()[b] = sum;
  });
}

}  // namespace mtp::ops::cpu
