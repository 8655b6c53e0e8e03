#include "mtp/ops/norm.h"

#include <cmath>

#include "column_sums.h"
#include "element_type.h"

namespace mtp::ops::cpu {

namespace {

template <typename T>
float mean_square(const T* x, std::int64_t width) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < width; ++i) sum += x[i] * x[i];
  return sum / static_cast<float>(width);
}

template <typename T>
void backward_row(const T* dy, const T* x, const T* weight, float rrms, std::int64_t width, T* dx) {
  // With n = x · rrms and g = dy · w: dx = rrms · (g - n · mean(g · n)).
  float dot = 0;
  if (weight != nullptr) {
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < width; ++i) dot += dy[i] * weight[i] * x[i];
  } else {
#pragma omp simd reduction(+ : dot)
    for (std::int64_t i = 0; i < width; ++i) dot += dy[i] * x[i];
  }
  const float factor = dot * rrms * rrms / static_cast<float>(width);
  if (weight != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) dx[i] = rrms * (dy[i] * weight[i] - x[i] * factor);
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) dx[i] = rrms * (dy[i] - x[i] * factor);
  }
}

/// `residual` may be null; without one, `weight` may be null too.
template <typename T>
void forward_row(const T* x, const T* weight, const T* residual, float rrms, std::int64_t width, T* y) {
  if (residual != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) y[i] = residual[i] + x[i] * rrms * weight[i];
  } else if (weight != nullptr) {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) y[i] = x[i] * rrms * weight[i];
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) y[i] = x[i] * rrms;
  }
}

/// `residual` may be empty; without one, `weight` may be empty too.
void forward(const Device& device, const RmsNorm& norm, const Tensor& x, const Tensor& weight, const Tensor& residual,
             const Tensor& y, const Tensor& rrms) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T* w = weight.empty() ? nullptr : cpu::elements_of<T>(weight);
    const T* added = residual.empty() ? nullptr : cpu::elements_of<T>(residual);
    cpu::parallel_pieces(device, rows, rows_per_task, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* in = cpu::elements_of<T>(x) + row * width;
        const float r = 1.0f / std::sqrt(mean_square(in, width) + norm.eps);
        rrms.f32()[row] = r;
        forward_row(in, w, added != nullptr ? added + row * width : nullptr, r, width,
                    cpu::elements_of<T>(y) + row * width);
      }
    });
  });
}

}  // namespace

void rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& x, const Tensor& weight, const Tensor& y,
                      const Tensor& rrms) {
  forward(device, norm, x, weight, Tensor(), y, rrms);
}

void add_rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& residual, const Tensor& x,
                          const Tensor& weight, const Tensor& y, const Tensor& rrms) {
  forward(device, norm, x, weight, residual, y, rrms);
}

void rms_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms,
                       const Tensor& dx, const Tensor& dweight) {
  const std::int64_t width = x.size(-1), rows = x.elements() / width;
  cpu::with_type_of(x, [&]<typename T>(T) {
    const T* w = weight.empty() ? nullptr : cpu::elements_of<T>(weight);
    cpu::add_column_sums(device, rows, width, dweight, [&](std::int64_t row, float* sum) {
      const T *g = cpu::elements_of<T>(dy) + row * width, *in = cpu::elements_of<T>(x) + row * width;
      const float r = rrms.f32()[row];
      if (sum != nullptr) {
#pragma omp simd
        for (std::int64_t i = 0; i < width; ++i) sum[i] += g[i] * (in[i] * r);
      }
      backward_row(g, in, w, r, width, cpu::elements_of<T>(dx) + row * width);
    });
  });
}

}  // namespace mtp::ops::cpu
