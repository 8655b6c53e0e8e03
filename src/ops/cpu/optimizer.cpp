#include "mtp/ops/optimizer.h"

#include <cmath>

#include "parallel.h"

namespace mtp::ops::cpu {

void adamw(Device& device, const AdamW& adamw, const Tensor& gradient, const Tensor& weight, const Tensor& moment1,
           const Tensor& moment2) {
  // Scalars in double, elements in fp32, in the order of PyTorch's single-tensor implementation.
  const double correction1 = 1.0 - std::pow(adamw.beta1, static_cast<double>(adamw.step));
  const double correction2 = 1.0 - std::pow(adamw.beta2, static_cast<double>(adamw.step));
  const auto decay = static_cast<float>(1.0 - adamw.lr * adamw.weight_decay);
  const auto step_size = static_cast<float>(-adamw.lr / correction1);
  const auto root_correction = static_cast<float>(std::sqrt(correction2));
  const auto beta2 = static_cast<float>(adamw.beta2);
  const auto keep1 = static_cast<float>(1.0 - adamw.beta1), keep2 = static_cast<float>(1.0 - adamw.beta2);
  const auto eps = static_cast<float>(adamw.eps);
  const float factor = adamw.gradient_factor;
  const float* g = gradient.f32();
  float *w = weight.f32(), *m = moment1.f32(), *v = moment2.f32();
  cpu::parallel_pieces(device, weight.elements(), 16384, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const float scaled = g[i] * factor;
      m[i] += keep1 * (scaled - m[i]);
      v[i] = v[i] * beta2 + keep2 * scaled * scaled;
      w[i] = w[i] * decay + step_size * m[i] / (std::sqrt(v[i]) / root_correction + eps);
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
