#include "mtp/ops/layer_norm.h"

#include "rows.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int bias_threads = 256;

__global__ void forward_kernel(std::int64_t rows, std::int64_t width, float eps, Elements x, Elements weight,
                               Elements bias, Elements y, float* statistics) {
  const std::int64_t row = row_of_thread();
  if (row >= rows) return;
  x = x.from(row * width);
  y = y.from(row * width);
  float sum = 0, square = 0;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) sum += x[i];
  const float mean = sum_of_row(sum) / static_cast<float>(width);
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) square += (x[i] - mean) * (x[i] - mean);
  const float r = 1.0f / sqrtf(sum_of_row(square) / static_cast<float>(width) + eps);
  if (threadIdx.x == 0) {
    statistics[2 * row] = mean;
    statistics[2 * row + 1] = r;
  }
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x)
    y.set(i, (x[i] - mean) * r * weight[i] + (bias.empty() ? 0.0f : bias[i]));
}

/// With n = (x - mean) · r and g = dy · w: dx = r · (g - mean(g) - n · mean(g · n)).
__global__ void backward_kernel(std::int64_t rows, std::int64_t width, Elements dy, Elements x, Elements weight,
                                const float* statistics, Elements dx) {
  const std::int64_t row = row_of_thread();
  if (row >= rows) return;
  dy = dy.from(row * width);
  x = x.from(row * width);
  dx = dx.from(row * width);
  const float mean = statistics[2 * row], r = statistics[2 * row + 1];
  float sum = 0, dot = 0;
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float g = dy[i] * weight[i];
    sum += g;
    dot += g * (x[i] - mean);
  }
  const float mean_g = sum_of_row(sum) / static_cast<float>(width);
  const float factor = sum_of_row(dot) * r * r / static_cast<float>(width);
  for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x)
    dx.set(i, r * (dy[i] * weight[i] - mean_g - (x[i] - mean) * factor));
}

struct WeightTerm {
  Elements dy, x;
  const float* statistics;
  __device__ float operator()(std::int64_t row, std::int64_t i) const {
    return dy[i] * ((x[i] - statistics[2 * row]) * statistics[2 * row + 1]);
  }
};

struct BiasTerm {
  Elements dy;
  __device__ float operator()(std::int64_t, std::int64_t i) const { return dy[i]; }
};

__global__ void add_bias_kernel(std::int64_t elements, std::int64_t width, Elements x, Elements bias, Elements y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * bias_threads + threadIdx.x;
  if (i < elements) y.set(i, x[i] + bias[i % width]);
}

}  // namespace

void layer_norm_forward(Device& device, const LayerNorm& norm, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& y, const Tensor& statistics) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  const dim3 block = block_of_rows(width);
  launch(device, forward_kernel, blocks(ceil_div(rows, block.y)), block, rows, width, norm.eps, Elements(x),
         Elements(weight), Elements(bias), Elements(y), statistics.f32());
}

void layer_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& statistics, const Tensor& dx, const Tensor& dweight) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  const dim3 block = block_of_rows(width);
  launch(device, backward_kernel, blocks(ceil_div(rows, block.y)), block, rows, width, Elements(dy), Elements(x),
         Elements(weight), statistics.f32(), Elements(dx));
  if (dweight.empty()) return;
  add_column_sums(device, rows, width, WeightTerm{Elements(dy), Elements(x), statistics.f32()}, dweight);
}

void add_bias(Device& device, const Tensor& x, const Tensor& bias, const Tensor& y) {
  launch(device, add_bias_kernel, blocks(ceil_div(x.elements(), bias_threads)), bias_threads, x.elements(), x.size(-1),
         Elements(x), Elements(bias), Elements(y));
}

void add_bias_backward(Device& device, const Tensor& dy, const Tensor& dbias) {
  const std::int64_t width = dy.size(-1);
  add_column_sums(device, dy.elements() / width, width, BiasTerm{Elements(dy)}, dbias);
}

}  // namespace mtp::ops::cuda
