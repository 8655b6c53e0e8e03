#include "mtp/ops/elementwise.h"

#include "elements.cuh"
#include "gelu.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

__device__ float gelu_derivative(float x, float tangent) {
  return 0.5f * (1.0f + tangent) +
         0.5f * x * (1.0f - tangent * tangent) * gelu_scale * (1.0f + 3.0f * gelu_cubic * x * x);
}

// What is computed per element, of one or two inputs.
struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct AddScaled {
  float factor;
  __device__ float operator()(float a, float b) const { return (a + b) * factor; }
};
struct Scale {
  float factor;
  __device__ float operator()(float a, float) const { return a * factor; }
};
struct Clamp {
  Bounds bounds;
  __device__ float operator()(float a, float) const {
    return a < bounds.least ? bounds.least : a > bounds.most ? bounds.most : a;
  }
};
struct ClampGradient {
  Bounds bounds;
  __device__ float operator()(float dy, float x) const { return x >= bounds.least && x <= bounds.most ? dy : 0.0f; }
};
struct GatedGelu {
  __device__ float operator()(float gate, float up) const { return gelu(gate, gelu_tangent(gate)) * up; }
};

template <int n, typename Function>
__global__ void map_kernel(std::int64_t elements, Function function, Elements a, Elements b, Elements y) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * n;
  if (i >= elements) return;
  Pack<n> pack_a = a.load<n>(i), pack_b = {};
  if (!b.empty()) pack_b = b.load<n>(i);
#pragma unroll
  for (int j = 0; j < n; ++j) pack_a.values[j] = function(pack_a.values[j], pack_b.values[j]);
  y.store<n>(i, pack_a);
}

/// y = function(a, b) for every element; b may be empty.
template <typename Function>
void map(Device& device, const Function& function, const Tensor& a, const Tensor& b, const Tensor& y) {
  const std::int64_t elements = y.elements();
  with_pack(is_packed({elements}, {&a, &b, &y}), [&](auto n) {
    launch(device, map_kernel<n(), Function>, blocks(ceil_div(elements, threads * n())), threads, elements, function,
           Elements(a), Elements(b), Elements(y));
  });
}

/// Either output may be empty.
template <int n>
__global__ void gated_gelu_backward_kernel(std::int64_t elements, Elements dy, Elements gate, Elements up,
                                           Elements dgate, Elements dup) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * n;
  if (i >= elements) return;
  const Pack<n> d = dy.load<n>(i), x = gate.load<n>(i);
  Pack<n> u = {}, out_gate, out_up;
  if (!dgate.empty()) u = up.load<n>(i);
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const float tangent = gelu_tangent(x.values[j]);
    out_gate.values[j] = d.values[j] * u.values[j] * gelu_derivative(x.values[j], tangent);
    out_up.values[j] = d.values[j] * gelu(x.values[j], tangent);
  }
  if (!dgate.empty()) dgate.store<n>(i, out_gate);
  if (!dup.empty()) dup.store<n>(i, out_up);
}

/// The part of a matrix that a copy reads or writes: rows of `width` elements, `stride` apart, from `begin` on.
struct Columns {
  Elements elements;
  std::int64_t begin, stride;
};

template <int n, bool add>
__global__ void columns_kernel(std::int64_t rows, std::int64_t width, Columns from, Columns to) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * n;
  if (i >= rows * width) return;
  const std::int64_t row = i / width, column = i % width, target = to.begin + row * to.stride + column;
  Pack<n> pack = from.elements.load<n>(from.begin + row * from.stride + column);
  if constexpr (add) {
    const Pack<n> before = to.elements.load<n>(target);
#pragma unroll
    for (int j = 0; j < n; ++j) pack.values[j] += before.values[j];
  }
  to.elements.store<n>(target, pack);
}

/// to[:, to_begin …] = from[:, from_begin …], or += , over `width` columns.
template <bool add>
void move_columns(Device& device, std::int64_t width, const Tensor& from, std::int64_t from_begin, const Tensor& to,
                  std::int64_t to_begin) {
  const std::int64_t rows = to.size(0);
  with_pack(is_packed({width, from.size(1), from_begin, to.size(1), to_begin}, {&from, &to}), [&](auto n) {
    launch(device, columns_kernel<n(), add>, blocks(ceil_div(rows * width, threads * n())), threads, rows, width,
           Columns{Elements(from), from_begin, from.size(1)}, Columns{Elements(to), to_begin, to.size(1)});
  });
}

}  // namespace

void convert(Device& device, const Tensor& x, const Tensor& y) { map(device, Scale{1}, x, {}, y); }

void add(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) { map(device, Add(), a, b, y); }

void add_scaled(Device& device, const Tensor& a, const Tensor& b, float factor, const Tensor& y) {
  map(device, AddScaled{factor}, a, b, y);
}

void scale(Device& device, const Tensor& x, float factor, const Tensor& y) { map(device, Scale{factor}, x, {}, y); }

void clamp_forward(Device& device, const Bounds& bounds, const Tensor& x, const Tensor& y) {
  map(device, Clamp{bounds}, x, {}, y);
}

void clamp_backward(Device& device, const Bounds& bounds, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  map(device, ClampGradient{bounds}, dy, x, dx);
}

void accumulate(Device& device, const Tensor& x, const Tensor& y) { add(device, y, x, y); }

void concat_columns(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  move_columns<false>(device, a.size(1), a, 0, y, 0);
  move_columns<false>(device, b.size(1), b, 0, y, a.size(1));
}

void split_columns(Device& device, const Tensor& dy, const Tensor& da, const Tensor& db) {
  if (!da.empty()) move_columns<false>(device, da.size(1), dy, 0, da, 0);
  if (!db.empty()) move_columns<false>(device, db.size(1), dy, dy.size(1) - db.size(1), db, 0);
}

void copy_columns(Device& device, const Tensor& x, std::int64_t begin, const Tensor& y) {
  move_columns<false>(device, y.size(1), x, begin, y, 0);
}

void add_columns(Device& device, const Tensor& dy, std::int64_t begin, const Tensor& dx) {
  move_columns<true>(device, dy.size(1), dy, 0, dx, begin);
}

void gated_gelu_forward(Device& device, const Tensor& gate, const Tensor& up, const Tensor& y) {
  map(device, GatedGelu(), gate, up, y);
}

void gated_gelu_backward(Device& device, const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                         const Tensor& dup) {
  const std::int64_t elements = dy.elements();
  with_pack(is_packed({elements}, {&dy, &gate, &up, &dgate, &dup}), [&](auto n) {
    launch(device, gated_gelu_backward_kernel<n()>, blocks(ceil_div(elements, threads * n())), threads, elements,
           Elements(dy), Elements(gate), Elements(up), Elements(dgate), Elements(dup));
  });
}

}  // namespace mtp::ops::cuda
