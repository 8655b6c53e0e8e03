#include "mtp/ops/rope.h"

#include <cmath>

#include "element_type.h"
#include "parallel.h"

namespace mtp::ops::cpu {

namespace {

/// Rotates every head of a row, whose heads are `stride` elements apart; `sign` -1 turns back.
template <typename T>
void rotate_row(const Rope& rope, std::int64_t position, float sign, std::int64_t heads, std::int64_t stride,
                const T* x, T* y) {
  const auto half = static_cast<std::int64_t>(rope.inverse_frequencies.size());
  thread_local std::vector<float> cosine, sine;
  cosine.resize(half);
  sine.resize(half);
  for (std::int64_t i = 0; i < half; ++i) {
    const float angle = static_cast<float>(position) * rope.inverse_frequencies[i];
    cosine[i] = T(std::cos(angle));
    sine[i] = T(sign * std::sin(angle));
  }
  const float *c = cosine.data(), *s = sine.data();
  for (std::int64_t head = 0; head < heads; ++head, x += stride, y += stride) {
#pragma omp simd
    for (std::int64_t i = 0; i < half; ++i) {
      const float low = x[i], high = x[i + half];
      y[i] = low * c[i] - high * s[i];
      y[i + half] = high * c[i] + low * s[i];
    }
  }
}

void rotate(const Device& device, const Rope& rope, const Sequences& sequences, float sign, const Tensor& x,
            const Tensor& y) {
  const std::int64_t heads = x.size(1), width = heads * x.size(2);
  const std::int64_t* const own = sequences.has_positions() ? sequences.positions().data<std::int64_t>() : nullptr;
  cpu::with_type_of(y, [&]<typename T>(T) {
    for (std::int64_t b = 0; b < sequences.count(); ++b)
      cpu::parallel_for(device, sequences.length(b), [&](std::int64_t t) {
        const std::int64_t at = (sequences.begin(b) + t) * width;
        rotate_row(rope, (own != nullptr ? own[t] : t) + rope.position_offset, sign, heads, x.size(2),
                   cpu::elements_of<T>(x) + at, cpu::elements_of<T>(y) + at);
      });
  });
}

void rotate_2d(const Device& device, const Rope& rope, const Tensor& positions, float sign, const Tensor& x,
               const Tensor& y) {
  const std::int64_t rows = x.size(0), heads = x.size(1), width = x.size(2);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_for(device, 2 * rows, [&](std::int64_t task) {
      const std::int64_t axis = task / rows, at = task % rows * heads * width + axis * width / 2;
      rotate_row(rope, positions.data<std::int64_t>()[task] + rope.position_offset, sign, heads, width,
                 cpu::elements_of<T>(x) + at, cpu::elements_of<T>(y) + at);
    });
  });
}

}  // namespace

void rope_forward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y) {
  rotate(device, rope, sequences, 1, x, y);
}

void rope_backward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& dy, const Tensor& dx) {
  rotate(device, rope, sequences, -1, dy, dx);
}

void rope_2d_forward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& x, const Tensor& y) {
  rotate_2d(device, rope, positions, 1, x, y);
}

void rope_2d_backward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& dy, const Tensor& dx) {
  rotate_2d(device, rope, positions, -1, dy, dx);
}

}  // namespace mtp::ops::cpu
