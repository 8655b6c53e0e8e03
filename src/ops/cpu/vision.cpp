#include "mtp/ops/vision.h"

#include <algorithm>

#include "element_type.h"
#include "parallel.h"

namespace mtp::ops::cpu {

namespace {

/// body(square, patch) for the square's first patch and the k × k patches of each soft token's square, in their order;
/// a task has whole squares.
template <typename Body>
void for_each_square(const Device& device, const PatchGrids& grids, std::int64_t k, const Body& body) {
  for (std::int64_t i = 0; i < grids.count(); ++i) {
    const auto [width, height] = grids.size(i);
    const std::int64_t columns = width / k, first = grids.begin(i);
    cpu::parallel_for(device, columns * (height / k), [&, width = width](std::int64_t square) {
      body(first / (k * k) + square, first + square / columns * k * width + square % columns * k, width);
    });
  }
}

}  // namespace

void pixels(Device& device, const PixelRange& range, const Tensor& bytes, const Tensor& y) {
  const auto [middle, factor] = range;
  const auto* u = bytes.data<std::uint8_t>();
  cpu::with_type_of(y, [&]<typename T>(T) {
    T* out = cpu::elements_of<T>(y);
    cpu::parallel_pieces(device, y.elements(), 16384, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        out[i] = factor * (static_cast<float>(u[i]) * (1.0f / 255.0f) - middle);
    });
  });
}

void pool_patches_forward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& x,
                          const Tensor& y) {
  const std::int64_t columns = x.size(1);
  cpu::with_type_of(x, [&]<typename T>(T) {
    for_each_square(device, grids, k, [&](std::int64_t square, std::int64_t patch, std::int64_t width) {
      float* out = y.f32() + square * columns;
      std::fill_n(out, columns, 0.0f);
      for (std::int64_t n = 0; n < k * k; ++n) {
        const T* in = cpu::elements_of<T>(x) + (patch + n / k * width + n % k) * columns;
#pragma omp simd
        for (std::int64_t i = 0; i < columns; ++i) out[i] += in[i];
      }
      for (std::int64_t i = 0; i < columns; ++i) out[i] = T(out[i] / static_cast<float>(k * k)) * factor;
    });
  });
}

void pool_patches_backward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& dy,
                           const Tensor& dx) {
  const std::int64_t columns = dx.size(1);
  const float share = factor / static_cast<float>(k * k);
  cpu::with_type_of(dx, [&]<typename T>(T) {
    for_each_square(device, grids, k, [&](std::int64_t square, std::int64_t patch, std::int64_t width) {
      const float* in = dy.f32() + square * columns;
      for (std::int64_t n = 0; n < k * k; ++n) {
        T* out = cpu::elements_of<T>(dx) + (patch + n / k * width + n % k) * columns;
#pragma omp simd
        for (std::int64_t i = 0; i < columns; ++i) out[i] = in[i] * share;
      }
    });
  });
}

void standardize_forward(Device& device, const Tensor& x, const Tensor& bias, const Tensor& scale, const Tensor& y) {
  const std::int64_t columns = x.size(1);
  const Tensor b = cpu::as_fp32(device, bias), s = cpu::as_fp32(device, scale);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_for(device, x.size(0), [&](std::int64_t row) {
      const float *in = x.f32() + row * columns, *pb = b.f32(), *ps = s.f32();
      T* out = cpu::elements_of<T>(y) + row * columns;
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) out[i] = (in[i] - pb[i]) * ps[i];
    });
  });
}

void standardize_backward(Device& device, const Tensor& dy, const Tensor& scale, const Tensor& dx) {
  const std::int64_t columns = dx.size(1);
  const Tensor s = cpu::as_fp32(device, scale);
  cpu::with_type_of(dy, [&]<typename T>(T) {
    cpu::parallel_for(device, dx.size(0), [&](std::int64_t row) {
      const T* in = cpu::elements_of<T>(dy) + row * columns;
      const float* ps = s.f32();
      float* out = dx.f32() + row * columns;
#pragma omp simd
      for (std::int64_t i = 0; i < columns; ++i) out[i] = in[i] * ps[i];
    });
  });
}

}  // namespace mtp::ops::cpu
