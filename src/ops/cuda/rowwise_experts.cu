#include "gelu.cuh"
#include "mtp/ops/rowwise.h"
#include "reduce.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;

/// Σ a[i] · b[i], by a warp, in an order that depends on the width alone.
template <int n>
__device__ float dot(std::int64_t width, const Elements& a, const Elements& b) {
  float sum = 0;
  for (std::int64_t i = threadIdx.x % warp_size * n; i < width; i += warp_size * n) {
    const Pack<n> pack_a = a.load<n>(i), pack_b = b.load<n>(i);
#pragma unroll
    for (int j = 0; j < n; ++j) sum = fmaf(pack_a.values[j], pack_b.values[j], sum);
  }
  return reduce_warp(sum, Sum());
}

/// A warp has an output of a pair of a row and one of its experts.
template <int n>
__global__ void inner_kernel(std::int64_t chosen, std::int64_t width, std::int64_t inner, Elements x,
                             const std::int64_t* experts, Elements gate_up, Elements h) {
  const std::int64_t pair = blockIdx.y,
                     output = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  if (output >= inner) return;
  const Elements row = x.from(pair / chosen * width);
  const Elements gate = gate_up.from((experts[pair] * 2 * inner + output) * width), up = gate.from(inner * width);
  const float g = h.rounded(dot<n>(width, row, gate)), u = h.rounded(dot<n>(width, row, up));
  if (threadIdx.x % warp_size == 0) h.set(pair * inner + output, gelu(g, gelu_tangent(g)) * u);
}

/// A warp has an output of a row.
template <int n>
__global__ void outer_kernel(std::int64_t chosen, std::int64_t inner, std::int64_t width, Elements h,
                             const std::int64_t* experts, const float* weights, Elements down, Elements y) {
  const std::int64_t row = blockIdx.y, output = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  if (output >= width) return;
  float sum = 0;
  for (std::int64_t pair = row * chosen; pair < (row + 1) * chosen; ++pair)
    sum += weights[pair] *
           y.rounded(dot<n>(inner, h.from(pair * inner), down.from((experts[pair] * width + output) * inner)));
  if (threadIdx.x % warp_size == 0) y.set(row * width + output, sum);
}

}  // namespace

void rowwise_experts(Device& device, const Tensor& x, const Tensor& experts, const Tensor& weights,
                     const Tensor& gate_up, const Tensor& down, const Tensor& y) {
  const std::int64_t rows = x.size(0), chosen = experts.size(1), width = x.size(1), inner = down.size(2);
  const Tensor h = device.empty({rows * chosen, inner}, x.dtype());
  with_pack(is_packed({width, inner}, {&x, &gate_up, &down, &h}), [&](auto n) {
    launch(device, inner_kernel<n()>, dim3(blocks(ceil_div(inner, warps)), blocks(rows * chosen)), threads, chosen,
           width, inner, Elements(x), experts.data<std::int64_t>(), Elements(gate_up), Elements(h));
    launch(device, outer_kernel<n()>, dim3(blocks(ceil_div(width, warps)), blocks(rows)), threads, chosen, inner, width,
           Elements(h), experts.data<std::int64_t>(), weights.f32(), Elements(down), Elements(y));
  });
}

}  // namespace mtp::ops::cuda
