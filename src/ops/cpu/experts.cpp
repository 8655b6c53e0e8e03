#include "mtp/ops/experts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "element_type.h"
#include "gemm.h"
#include "parallel.h"
#include "vector_math.h"

namespace mtp::ops::cpu {

namespace {

/// Each expert after the best of those before, by logit and then by number.
void choose(const float* logits, std::int64_t experts, std::int64_t n, std::int64_t* chosen) {
  constexpr float least = -std::numeric_limits<float>::infinity();
  const auto value = [&](std::int64_t e) { return std::isnan(logits[e]) ? least : logits[e]; };
  float last = std::numeric_limits<float>::infinity();
  std::int64_t last_expert = -1;
  for (std::int64_t k = 0; k < n; ++k) {
    std::int64_t best = -1;
    for (std::int64_t e = 0; e < experts; ++e) {
      const bool is_left = value(e) < last || (value(e) == last && e > last_expert);
      if (is_left && (best < 0 || value(e) > value(best))) best = e;
    }
    chosen[k] = last_expert = best;
    last = value(best);
  }
  std::sort(chosen, chosen + n);
}

/// The matrix of an expert.
Tensor matrix_of(const Tensor& w, std::int64_t expert) {
  return w.slice(expert * w.size(1) * w.size(2), {w.size(1), w.size(2)});
}

/// The product of each expert that has pairs: `product(expert, part)`, where part(x) are the rows of x of its pairs.
template <typename ProductOf>
std::vector<Product> products_of(const ExpertPairs& pairs, const ProductOf& product) {
  const std::int64_t* offsets = pairs.offsets.data<std::int64_t>();
  std::vector<Product> products;
  for (std::int64_t e = 0; e + 1 < pairs.offsets.elements(); ++e) {
    const std::int64_t begin = offsets[e], count = offsets[e + 1] - begin;
    if (count == 0) continue;
    products.push_back(product(e, [&](const Tensor& x) { return x.slice(begin * x.size(1), {count, x.size(1)}); }));
  }
  return products;
}

}  // namespace

void choose_experts_forward(Device& device, const Tensor& logits, const Tensor& scale, const ExpertChoice& choice) {
  const std::int64_t experts = logits.size(1), n = choice.experts.size(1);
  const Tensor scale_fp32 = cpu::as_fp32(device, scale);
  cpu::parallel_pieces(device, logits.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* z = logits.f32() + row * experts;
      std::int64_t* chosen = choice.experts.data<std::int64_t>() + row * n;
      choose(z, experts, n, chosen);
      float maximum = z[chosen[0]], sum = 0;
      for (std::int64_t k = 1; k < n; ++k) maximum = std::max(maximum, z[chosen[k]]);
      float *shares = choice.shares.f32() + row * n, *weights = choice.weights.f32() + row * n;
      for (std::int64_t k = 0; k < n; ++k) sum += shares[k] = cpu::exp_f32(z[chosen[k]] - maximum);
      for (std::int64_t k = 0; k < n; ++k) weights[k] = (shares[k] /= sum) * scale_fp32.f32()[chosen[k]];
    }
  });
}

void choose_experts_backward(Device& device, const Tensor& dweights, const ExpertChoice& choice, const Tensor& scale,
                             const Tensor& dlogits, const Tensor& dscale) {
  const std::int64_t experts = dlogits.size(1), n = choice.experts.size(1), rows = dlogits.size(0);
  const Tensor scale_fp32 = cpu::as_fp32(device, scale);
  const std::int64_t* chosen = choice.experts.data<std::int64_t>();
  cpu::parallel_pieces(device, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t* own = chosen + row * n;
      const float *d = dweights.f32() + row * n, *share = choice.shares.f32() + row * n, *factor = scale_fp32.f32();
      float mean = 0;
      for (std::int64_t k = 0; k < n; ++k) mean += share[k] * (d[k] * factor[own[k]]);
      float* out = dlogits.f32() + row * experts;
      std::fill_n(out, experts, 0.0f);
      for (std::int64_t k = 0; k < n; ++k) out[own[k]] = share[k] * (d[k] * factor[own[k]] - mean);
    }
  });
  if (dscale.empty()) return;
  for (std::int64_t i = 0; i < rows * n; ++i) dscale.f32()[chosen[i]] += dweights.f32()[i] * choice.shares.f32()[i];
}

void sort_by_expert(Device&, const Tensor& experts, const ExpertPairs& pairs) {
  const std::int64_t n = experts.size(1), count = pairs.offsets.elements() - 1;
  const std::int64_t* chosen = experts.data<std::int64_t>();
  std::int64_t* offsets = pairs.offsets.data<std::int64_t>();
  std::fill_n(offsets, count + 1, 0);
  for (std::int64_t i = 0; i < experts.elements(); ++i) ++offsets[chosen[i] + 1];
  for (std::int64_t e = 0; e < count; ++e) offsets[e + 1] += offsets[e];
  std::vector<std::int64_t> next(offsets, offsets + count);
  for (std::int64_t i = 0; i < experts.elements(); ++i) {
    const std::int64_t place = next[chosen[i]]++;
    pairs.rows.data<std::int64_t>()[place] = i / n;
    pairs.places.data<std::int64_t>()[i] = place;
  }
}

void expert_linear_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& w,
                           const Tensor& y) {
  const auto product = [&](std::int64_t e, const auto& part) -> Product {
    return {{part(x)}, {matrix_of(w, e), transposed}, part(y)};
  };
  cpu::parallel_gemms(device, products_of(pairs, product), 0);
}

void expert_linear_backward_input(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& w,
                                  const Tensor& dx) {
  const auto product = [&](std::int64_t e, const auto& part) -> Product {
    return {{part(dy)}, {matrix_of(w, e)}, part(dx)};
  };
  cpu::parallel_gemms(device, products_of(pairs, product), 0);
}

void expert_linear_backward_weight(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                                   const Tensor& dw) {
  const auto product = [&](std::int64_t e, const auto& part) -> Product {
    return {{part(dy), transposed}, {part(x)}, matrix_of(dw, e)};
  };
  cpu::parallel_gemms(device, products_of(pairs, product), 1);
}

void add_pairs_forward(Device& device, const ExpertPairs& pairs, const Tensor& x, const Tensor& weights,
                       const Tensor& y) {
  const std::int64_t width = y.size(1), n = pairs.places.size(1);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_pieces(device, y.size(0), 8, [&](std::int64_t begin, std::int64_t end) {
      std::vector<float> sum(static_cast<std::size_t>(width));
      for (std::int64_t row = begin; row < end; ++row) {
        std::fill(sum.begin(), sum.end(), 0.0f);
        for (std::int64_t i = row * n; i < (row + 1) * n; ++i) {
          const float weight = weights.empty() ? 1.0f : weights.f32()[i];
          const T* in = cpu::elements_of<T>(x) + pairs.places.data<std::int64_t>()[i] * width;
#pragma omp simd
          for (std::int64_t c = 0; c < width; ++c) sum[c] += weight * in[c];
        }
        T* out = cpu::elements_of<T>(y) + row * width;
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) out[c] = sum[c];
      }
    });
  });
}

void add_pairs_backward(Device& device, const ExpertPairs& pairs, const Tensor& dy, const Tensor& x,
                        const Tensor& weights, const Tensor& dx, const Tensor& dweights) {
  const std::int64_t width = dy.size(1), n = pairs.places.size(1);
  cpu::with_type_of(dy, [&]<typename T>(T) {
    cpu::parallel_pieces(device, dy.size(0) * n, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t place = pairs.places.data<std::int64_t>()[i];
        const T* d = cpu::elements_of<T>(dy) + i / n * width;
        if (!dx.empty()) {
          const float weight = weights.empty() ? 1.0f : weights.f32()[i];
          T* out = cpu::elements_of<T>(dx) + place * width;
#pragma omp simd
          for (std::int64_t c = 0; c < width; ++c) out[c] = weight * d[c];
        }
        if (!dweights.empty()) {
          const T* in = cpu::elements_of<T>(x) + place * width;
          float dot = 0;
#pragma omp simd reduction(+ : dot)
          for (std::int64_t c = 0; c < width; ++c) dot += d[c] * in[c];
          dweights.f32()[i] = dot;
        }
      }
    });
  });
}

}  // namespace mtp::ops::cpu
