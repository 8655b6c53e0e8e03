#include "mtp/ops/optimizer.h"

#include "../adamw_coefficients.h"
#include "reduce.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

template <int n>
__global__ void adamw_kernel(std::int64_t elements, AdamWCoefficients c, Elements gradient, Elements weight,
                             Elements moment1, Elements moment2) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * n;
  if (i >= elements) return;
  const Pack<n> g = gradient.load<n>(i);
  Pack<n> w = weight.load<n>(i), m = moment1.load<n>(i), v = moment2.load<n>(i);
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const float scaled = g.values[j] * c.factor;
    m.values[j] += c.keep1 * (scaled - m.values[j]);
    v.values[j] = v.values[j] * c.beta2 + c.keep2 * scaled * scaled;
    w.values[j] = w.values[j] * c.decay + c.step_size * m.values[j] / (sqrtf(v.values[j]) / c.root_correction + c.eps);
  }
  weight.store<n>(i, w);
  moment1.store<n>(i, m);
  moment2.store<n>(i, v);
}

__global__ void sum_of_squares_kernel(std::int64_t block, const float* gradient, double* sums) {
  const float* const g = gradient + blockIdx.x * block;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < block; i += threads) sum += static_cast<double>(g[i]) * g[i];
  sum = reduce_block(sum, Sum());
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void adamw(Device& device, const AdamW& adamw, const Tensor& gradient, const Tensor& weight, const Tensor& moment1,
           const Tensor& moment2) {
  const std::int64_t elements = weight.elements();
  MTP_ASSERT(gradient.elements() == elements && moment1.elements() == elements && moment2.elements() == elements);
  with_pack(is_packed({elements}, {&gradient, &weight, &moment1, &moment2}), [&](auto n) {
    launch(device, adamw_kernel<n()>, blocks(ceil_div(elements, threads * n())), threads, elements,
           coefficients_of(adamw), Elements(gradient), Elements(weight), Elements(moment1), Elements(moment2));
  });
}

void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums) {
  MTP_ASSERT(gradient.elements() == sums.elements() * block && sums.dtype() == DType::f64);
  launch(device, sum_of_squares_kernel, blocks(sums.elements()), threads, block, gradient.f32(), sums.data<double>());
}

}  // namespace mtp::ops::cuda
