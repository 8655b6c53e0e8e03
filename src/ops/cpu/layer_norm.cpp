#include "mtp/ops/layer_norm.h"

#include <cmath>

#include "column_sums.h"
#include "element_type.h"

namespace mtp::ops::cpu {

namespace {

template <typename T>
float mean_of(const T* x, std::int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) sum += x[i];
  return sum / static_cast<float>(width);
}

template <typename T>
float variance_of(const T* x, float mean, std::int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) sum += (x[i] - mean) * (x[i] - mean);
  return sum / static_cast<float>(width);
}

/// With n = (x - mean) · r and g = dy · w: dx = r · (g - mean(g) - n · mean(g · n)).
template <typename T>
void backward_row(const T* dy, const T* x, const T* w, float mean, float r, std::int64_t width, T* dx) {
  float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
  for (std::int64_t i = 0; i < width; ++i) {
    const float g = dy[i] * w[i];
    sum += g;
    dot += g * (x[i] - mean);
  }
  const float mean_g = sum / static_cast<float>(width), factor = dot * r * r / static_cast<float>(width);
#pragma omp simd
  for (std::int64_t i = 0; i < width; ++i) dx[i] = r * (dy[i] * w[i] - mean_g - (x[i] - mean) * factor);
}

}  // namespace

void layer_norm_forward(Device& device, const LayerNorm& norm, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& y, const Tensor& statistics) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T* w = cpu::elements_of<T>(weight);
    const T* b = bias.empty() ? nullptr : cpu::elements_of<T>(bias);
    cpu::parallel_pieces(device, rows, rows_per_task, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* in = cpu::elements_of<T>(x) + row * width;
        T* out = cpu::elements_of<T>(y) + row * width;
        const float mean = mean_of(in, width), r = 1.0f / std::sqrt(variance_of(in, mean, width) + norm.eps);
        statistics.f32()[2 * row] = mean;
        statistics.f32()[2 * row + 1] = r;
        if (b == nullptr) {
#pragma omp simd
          for (std::int64_t i = 0; i < width; ++i) out[i] = (in[i] - mean) * r * w[i];
        } else {
#pragma omp simd
          for (std::int64_t i = 0; i < width; ++i) out[i] = (in[i] - mean) * r * w[i] + b[i];
        }
      }
    });
  });
}

void layer_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& statistics, const Tensor& dx, const Tensor& dweight) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  const float* kept = statistics.f32();
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T* w = cpu::elements_of<T>(weight);
    cpu::add_column_sums(device, rows, width, dweight, [&](std::int64_t row, float* sum) {
      const T *g = cpu::elements_of<T>(dy) + row * width, *in = cpu::elements_of<T>(x) + row * width;
      const float mean = kept[2 * row], r = kept[2 * row + 1];
      if (sum != nullptr) {
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) sum[i] += g[i] * ((in[i] - mean) * r);
      }
      backward_row(g, in, w, mean, r, width, cpu::elements_of<T>(dx) + row * width);
    });
  });
}

void add_bias(Device& device, const Tensor& x, const Tensor& bias, const Tensor& y) {
  const std::int64_t width = x.size(-1);
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T* b = cpu::elements_of<T>(bias);
    cpu::parallel_for(device, x.elements() / width, [&](std::int64_t row) {
      const T* in = cpu::elements_of<T>(x) + row * width;
      T* out = cpu::elements_of<T>(y) + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) out[i] = in[i] + b[i];
    });
  });
}

void add_bias_backward(Device& device, const Tensor& dy, const Tensor& dbias) {
  const std::int64_t width = dy.size(-1);
  cpu::with_type_of(dy, [&]<typename T>(T) {
    cpu::add_column_sums(device, dy.elements() / width, width, dbias, [&](std::int64_t row, float* part) {
      const T* g = cpu::elements_of<T>(dy) + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) part[i] += g[i];
    });
  });
}

}  // namespace mtp::ops::cpu
