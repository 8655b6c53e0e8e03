#include "mtp/ops/norm.h"

#include "rows.cuh"

namespace mtp::ops::cuda {

namespace {

template <int n>
__global__ void forward_kernel(std::int64_t rows, std::int64_t width, float eps, Elements residual, Elements x,
                               Elements weight, Elements y, float* rrms) {
  const std::int64_t row = row_of_thread();
  if (row >= rows) return;
  const std::int64_t first = threadIdx.x * n, step = blockDim.x * n;
  x = x.from(row * width);
  y = y.from(row * width);
  float square = 0;
  for (std::int64_t i = first; i < width; i += step) {
    const Pack<n> pack = x.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) square += pack.values[j] * pack.values[j];
  }
  const float r = 1.0f / sqrtf(sum_of_row(square) / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) rrms[row] = r;
  for (std::int64_t i = first; i < width; i += step) {
    Pack<n> pack = x.load<n>(i), w = {};
    if (!weight.empty()) w = weight.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) pack.values[j] = pack.values[j] * r * (weight.empty() ? 1.0f : w.values[j]);
    if (!residual.empty()) {
      const Pack<n> before = residual.load<n>(row * width + i);
#pragma unroll
      for (int j = 0; j < n; ++j) pack.values[j] += before.values[j];
    }
    y.store<n>(i, pack);
  }
}

template <int n>
__global__ void backward_kernel(std::int64_t rows, std::int64_t width, Elements dy, Elements x, Elements weight,
                                const float* rrms, Elements dx) {
  const std::int64_t row = row_of_thread();
  if (row >= rows) return;
  const std::int64_t first = threadIdx.x * n, step = blockDim.x * n;
  dy = dy.from(row * width);
  x = x.from(row * width);
  dx = dx.from(row * width);
  // With n = x · rrms and g = dy · w: dx = rrms · (g - n · mean(g · n)).
  const auto weighted = [&](std::int64_t i) {
    Pack<n> g = dy.load<n>(i);
    if (weight.empty()) return g;
    const Pack<n> w = weight.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) g.values[j] *= w.values[j];
    return g;
  };
  float dot = 0;
  for (std::int64_t i = first; i < width; i += step) {
    const Pack<n> g = weighted(i), in = x.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) dot += g.values[j] * in.values[j];
  }
  const float r = rrms[row], factor = sum_of_row(dot) * r * r / static_cast<float>(width);
  for (std::int64_t i = first; i < width; i += step) {
    Pack<n> g = weighted(i);
    const Pack<n> in = x.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) g.values[j] = r * (g.values[j] - in.values[j] * factor);
    dx.store<n>(i, g);
  }
}

struct WeightTerm {
  Elements dy, x;
  const float* rrms;
  __device__ float operator()(std::int64_t row, std::int64_t i) const { return dy[i] * (x[i] * rrms[row]); }
};

/// The residual may be empty.
void forward(Device& device, const RmsNorm& norm, const Tensor& residual, const Tensor& x, const Tensor& weight,
             const Tensor& y, const Tensor& rrms) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  const dim3 block = block_of_rows(width);
  with_pack(is_packed({width}, {&residual, &x, &weight, &y}), [&](auto n) {
    launch(device, forward_kernel<n()>, blocks(ceil_div(rows, block.y)), block, rows, width, norm.eps,
           Elements(residual), Elements(x), Elements(weight), Elements(y), rrms.f32());
  });
}

}  // namespace

void rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& x, const Tensor& weight, const Tensor& y,
                      const Tensor& rrms) {
  forward(device, norm, {}, x, weight, y, rrms);
}

void add_rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& residual, const Tensor& x,
                          const Tensor& weight, const Tensor& y, const Tensor& rrms) {
  forward(device, norm, residual, x, weight, y, rrms);
}

void rms_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms,
                       const Tensor& dx, const Tensor& dweight) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  const dim3 block = block_of_rows(width);
  with_pack(is_packed({width}, {&dy, &x, &weight, &dx}), [&](auto n) {
    launch(device, backward_kernel<n()>, blocks(ceil_div(rows, block.y)), block, rows, width, Elements(dy), Elements(x),
           Elements(weight), rrms.f32(), Elements(dx));
  });
  if (dweight.empty()) return;
  add_column_sums(device, rows, width, WeightTerm{Elements(dy), Elements(x), rrms.f32()}, dweight);
}

}  // namespace mtp::ops::cuda
