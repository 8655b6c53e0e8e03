#include "mtp/ops/optimizer.h"

#include <cmath>

#include "../adamw_coefficients.h"
#include "parallel.h"

namespace mtp::ops::cpu {

void adamw(Device& device, const AdamW& adamw, const Tensor& gradient, const Tensor& weight, const Tensor& moment1,
           const Tensor& moment2) {
  const AdamWCoefficients c = coefficients_of(adamw);
  const float* g = gradient.f32();
  float *w = weight.f32(), *m = moment1.f32(), *v = moment2.f32();
  cpu::parallel_pieces(device, weight.elements(), 16384, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float scaled = g[i] * c.factor;
      m[i] += c.keep1 * (scaled - m[i]);
      v[i] = v[i] * c.beta2 + c.keep2 * scaled * scaled;
      w[i] = w[i] * c.decay + c.step_size * m[i] / (std::sqrt(v[i]) / c.root_correction + c.eps);
    }
  });
}

void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums) {
  MTP_ASSERT(gradient.elements() == sums.elements() * block && sums.dtype() == DType::f64);
  cpu::parallel_for(device, sums.elements(), [&](std::int64_t b) {
    const float* g = gradient.f32() + b * block;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < block; ++i) sum += static_cast<double>(g[i]) * g[i];
    sums.data<double>()[b] = sum;
  });
}

}  // namespace mtp::ops::cpu
