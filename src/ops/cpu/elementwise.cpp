#include "mtp/ops/elementwise.h"

#include <algorithm>

#include "element_type.h"
#include "parallel.h"
#include "vector_math.h"

namespace mtp::ops::cpu {

namespace {

constexpr std::int64_t piece = 16384;  // elements of one task: half of a first-level cache per operand

/// body(i) for every element, vectorised.
template <typename Body>
void for_each_element(const Device& device, std::int64_t n, const Body& body) {
  cpu::parallel_pieces(device, n, piece, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

std::int64_t rows_per_task(std::int64_t width) { return std::max<std::int64_t>(1, piece / width); }

// gelu(x) = x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
constexpr float gelu_scale = 0.7978845608028654f;
constexpr float gelu_cubic = 0.044715f;

/// The hyperbolic tangent that gelu(x) and its derivative are made of.
inline float gelu_tangent(float x) { return cpu::tanh_f32(gelu_scale * (x + gelu_cubic * x * x * x)); }

inline float gelu(float x, float tangent) { return 0.5f * x * (1.0f + tangent); }

inline float gelu_derivative(float x, float tangent) {
  return 0.5f * (1.0f + tangent) +
         0.5f * x * (1.0f - tangent * tangent) * gelu_scale * (1.0f + 3.0f * gelu_cubic * x * x);
}

}  // namespace

void convert(Device& device, const Tensor& x, const Tensor& y) {
  cpu::with_type_of(x, [&]<typename From>(From) {
    cpu::with_type_of(y, [&]<typename To>(To) {
      const From* px = cpu::elements_of<From>(x);
      To* py = cpu::elements_of<To>(y);
      for_each_element(device, y.elements(), [=](std::int64_t i) { py[i] = static_cast<float>(px[i]); });
    });
  });
}

void add(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  cpu::with_type_of(y, [&]<typename T>(T) {
    const T *pa = cpu::elements_of<T>(a), *pb = cpu::elements_of<T>(b);
    T* py = cpu::elements_of<T>(y);
    for_each_element(device, y.elements(), [=](std::int64_t i) { py[i] = pa[i] + pb[i]; });
  });
}

void add_scaled(Device& device, const Tensor& a, const Tensor& b, float factor, const Tensor& y) {
  cpu::with_type_of(y, [&]<typename T>(T) {
    const T *pa = cpu::elements_of<T>(a), *pb = cpu::elements_of<T>(b);
    T* py = cpu::elements_of<T>(y);
    for_each_element(device, y.elements(), [=](std::int64_t i) { py[i] = (pa[i] + pb[i]) * factor; });
  });
}

void scale(Device& device, const Tensor& x, float factor, const Tensor& y) {
  cpu::with_type_of(y, [&]<typename T>(T) {
    const T* px = cpu::elements_of<T>(x);
    T* py = cpu::elements_of<T>(y);
    for_each_element(device, y.elements(), [=](std::int64_t i) { py[i] = px[i] * factor; });
  });
}

void clamp_forward(Device& device, const Bounds& bounds, const Tensor& x, const Tensor& y) {
  const auto [least, most] = bounds;
  cpu::with_type_of(y, [&, least = least, most = most]<typename T>(T) {
    const T* px = cpu::elements_of<T>(x);
    T* py = cpu::elements_of<T>(y);
    for_each_element(device, y.elements(), [=](std::int64_t i) {
      const float value = px[i];
      py[i] = value < least ? least : value > most ? most : value;
    });
  });
}

void clamp_backward(Device& device, const Bounds& bounds, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  const auto [least, most] = bounds;
  cpu::with_type_of(dx, [&, least = least, most = most]<typename T>(T) {
    const T *d = cpu::elements_of<T>(dy), *px = cpu::elements_of<T>(x);
    T* out = cpu::elements_of<T>(dx);
    for_each_element(device, dx.elements(), [=](std::int64_t i) {
      const float value = px[i], gradient = d[i];
      out[i] = value >= least && value <= most ? gradient : 0.0f;
    });
  });
}

void accumulate(Device& device, const Tensor& x, const Tensor& y) { add(device, y, x, y); }

void concat_columns(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  const std::int64_t rows = y.size(0), wa = a.size(1), wb = b.size(1);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_pieces(device, rows, rows_per_task(wa + wb), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        T* out = cpu::elements_of<T>(y) + row * (wa + wb);
        std::copy_n(cpu::elements_of<T>(a) + row * wa, wa, out);
        std::copy_n(cpu::elements_of<T>(b) + row * wb, wb, out + wa);
      }
    });
  });
}

void split_columns(Device& device, const Tensor& dy, const Tensor& da, const Tensor& db) {
  const std::int64_t rows = dy.size(0), width = dy.size(1);
  const std::int64_t wa = da.empty() ? width - (db.empty() ? 0 : db.size(1)) : da.size(1), wb = width - wa;
  cpu::with_type_of(dy, [&]<typename T>(T) {
    cpu::parallel_pieces(device, rows, rows_per_task(width), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* in = cpu::elements_of<T>(dy) + row * width;
        if (!da.empty()) std::copy_n(in, wa, cpu::elements_of<T>(da) + row * wa);
        if (!db.empty()) std::copy_n(in + wa, wb, cpu::elements_of<T>(db) + row * wb);
      }
    });
  });
}

void copy_columns(Device& device, const Tensor& x, std::int64_t begin, const Tensor& y) {
  const std::int64_t rows = x.size(0), width = x.size(1), count = y.size(1);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_pieces(device, rows, rows_per_task(count), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t row = first; row < last; ++row)
        std::copy_n(cpu::elements_of<T>(x) + row * width + begin, count, cpu::elements_of<T>(y) + row * count);
    });
  });
}

void add_columns(Device& device, const Tensor& dy, std::int64_t begin, const Tensor& dx) {
  const std::int64_t rows = dx.size(0), width = dx.size(1), count = dy.size(1);
  cpu::with_type_of(dx, [&]<typename T>(T) {
    cpu::parallel_pieces(device, rows, rows_per_task(count), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t row = first; row < last; ++row) {
        const T* in = cpu::elements_of<T>(dy) + row * count;
        T* out = cpu::elements_of<T>(dx) + row * width + begin;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) out[i] = out[i] + in[i];
      }
    });
  });
}

void gated_gelu_forward(Device& device, const Tensor& gate, const Tensor& up, const Tensor& y) {
  cpu::with_type_of(y, [&]<typename T>(T) {
    const T *g = cpu::elements_of<T>(gate), *u = cpu::elements_of<T>(up);
    T* out = cpu::elements_of<T>(y);
    for_each_element(device, y.elements(), [=](std::int64_t i) { out[i] = gelu(g[i], gelu_tangent(g[i])) * u[i]; });
  });
}

void gated_gelu_backward(Device& device, const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                         const Tensor& dup) {
  cpu::with_type_of(dy, [&]<typename T>(T) {
    const T *d = cpu::elements_of<T>(dy), *g = cpu::elements_of<T>(gate), *u = cpu::elements_of<T>(up);
    T *out_gate = dgate.empty() ? nullptr : cpu::elements_of<T>(dgate),
      *out_up = dup.empty() ? nullptr : cpu::elements_of<T>(dup);
    if (out_gate != nullptr && out_up != nullptr) {
      for_each_element(device, dy.elements(), [=](std::int64_t i) {
        const float x = g[i], dy_i = d[i], tangent = gelu_tangent(x);
        out_gate[i] = dy_i * u[i] * gelu_derivative(x, tangent);
        out_up[i] = dy_i * gelu(x, tangent);
      });
    } else if (out_up != nullptr) {
      for_each_element(device, dy.elements(),
                       [=](std::int64_t i) { out_up[i] = d[i] * gelu(g[i], gelu_tangent(g[i])); });
    } else if (out_gate != nullptr) {
      for_each_element(device, dy.elements(),
                       [=](std::int64_t i) { out_gate[i] = d[i] * u[i] * gelu_derivative(g[i], gelu_tangent(g[i])); });
    }
  });
}

}  // namespace mtp::ops::cpu
