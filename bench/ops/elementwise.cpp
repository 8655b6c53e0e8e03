#include "mtp/ops/elementwise.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "cases.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp::bench {

namespace {

constexpr float factor = 0.75f;

/// y, of which `expected` gives an element of row i from the rows of the inputs.
Work arithmetic(Device& device, DType type, const Shape& shape, std::size_t inputs,
                double (*expected)(double a, double b),
                void (*apply)(Device&, const Tensor& a, const Tensor& b, const Tensor& y)) {
  const Tensor a = random_tensor(device, shape, 1, 1, type), b = random_tensor(device, shape, 2, 1, type),
               y = device.zeros(shape, type);
  return {.run = [=, &device] { apply(device, a, b, y); },
          .check =
              [=, &device] {
                expect_rows(device, "y", y, [&](std::int64_t i) {
                  const Values in_a = row(device, a, i), in_b = row(device, b, i);
                  Values values(in_a.size());
                  for (std::size_t j = 0; j < values.size(); ++j) values[j] = expected(in_a[j], in_b[j]);
                  return values;
                });
              },
          .bytes = static_cast<double>(inputs + 1) * bytes_of({y})};
}

Shape hidden(const Sizes& s) { return {s.rows, s.base.hidden_size}; }
Shape intermediate(const Sizes& s) { return {s.rows, s.base.intermediate_size}; }

Work add(Device& device, const Sizes& sizes) {
  return arithmetic(
      device, sizes.type, hidden(sizes), 2, [](double a, double b) { return a + b; }, ops::add);
}

Work add_scaled(Device& device, const Sizes& sizes) {
  return arithmetic(
      device, sizes.type, hidden(sizes), 2, [](double a, double b) { return factor * (a + b); },
      [](Device& d, const Tensor& a, const Tensor& b, const Tensor& y) { ops::add_scaled(d, a, b, factor, y); });
}

Work scale(Device& device, const Sizes& sizes) {
  return arithmetic(
      device, sizes.type, hidden(sizes), 1, [](double a, double) { return factor * a; },
      [](Device& d, const Tensor& a, const Tensor&, const Tensor& y) { ops::scale(d, a, factor, y); });
}

/// Reads y too.
Work accumulate(Device& device, const Sizes& sizes) {
  return arithmetic(
      device, sizes.type, hidden(sizes), 2, [](double a, double) { return a; },
      [](Device& d, const Tensor& a, const Tensor&, const Tensor& y) { ops::accumulate(d, a, y); });
}

/// To bf16, as weights are before they are gathered.
Work convert(Device& device, const Sizes& sizes) {
  const Shape shape = intermediate(sizes);
  const Tensor x = random_tensor(device, shape, 1), y = device.empty(shape, DType::bf16), back = device.empty(shape);
  const auto check = [=, &device] {
    ops::convert(device, y, back);
    expect_rows(device, "y", back, [&](std::int64_t i) {
      Values expected = row(device, x, i);
      for (double& value : expected) value = rounded_to(DType::bf16, static_cast<float>(value));
      return expected;
    });
  };
  return {.run = [=, &device] { ops::convert(device, x, y); }, .check = check, .bytes = bytes_of({x, y})};
}

Values joined(Values a, const Values& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A drafter round's input.
Work concat_columns(Device& device, const Sizes& sizes) {
  const std::int64_t rows = sizes.rows, width = sizes.base.hidden_size;
  const Tensor a = random_tensor(device, {rows, width}, 1, 1, sizes.type),
               b = random_tensor(device, {rows, width}, 2, 1, sizes.type),
               y = device.empty({rows, 2 * width}, sizes.type);
  return {.run = [=, &device] { ops::concat_columns(device, a, b, y); },
          .check =
              [=, &device] {
                expect_rows(device, "y", y,
                            [&](std::int64_t i) { return joined(row(device, a, i), row(device, b, i)); });
              },
          .bytes = bytes_of({a, b, y})};
}

Work split_columns(Device& device, const Sizes& sizes) {
  const std::int64_t rows = sizes.rows, width = sizes.base.hidden_size;
  const Tensor dy = random_tensor(device, {rows, 2 * width}, 1, 1, sizes.type),
               da = device.empty({rows, width}, sizes.type), db = device.empty({rows, width}, sizes.type);
  return {.run = [=, &device] { ops::split_columns(device, dy, da, db); },
          .check =
              [=, &device] {
                expect_rows(device, "da", da, [&](std::int64_t i) { return part(device, dy, 2 * i * width, width); });
                expect_rows(device, "db", db,
                            [&](std::int64_t i) { return part(device, dy, (2 * i + 1) * width, width); });
              },
          .bytes = bytes_of({dy, da, db})};
}

/// One layer's part of the per-layer inputs.
struct Columns {
  std::int64_t width, all, begin;
};
Columns layer_columns(const Sizes& sizes) {
  const std::int64_t width = sizes.base.hidden_size_per_layer_input;
  return {width, width * sizes.base.num_hidden_layers, width};
}
bool has_layer_columns(const Sizes& sizes) { return sizes.base.hidden_size_per_layer_input > 0; }

Work copy_columns(Device& device, const Sizes& sizes) {
  const Columns columns = layer_columns(sizes);
  const Tensor x = random_tensor(device, {sizes.rows, columns.all}, 1, 1, sizes.type),
               y = device.empty({sizes.rows, columns.width}, sizes.type);
  return {.run = [=, &device] { ops::copy_columns(device, x, columns.begin, y); },
          .check =
              [=, &device] {
                expect_rows(device, "y", y, [&](std::int64_t i) {
                  return part(device, x, i * columns.all + columns.begin, columns.width);
                });
              },
          .bytes = bytes_of({y, y})};
}

Work add_columns(Device& device, const Sizes& sizes) {
  const Columns columns = layer_columns(sizes);
  const Tensor dy = random_tensor(device, {sizes.rows, columns.width}, 1, 1, sizes.type),
               dx = device.zeros({sizes.rows, columns.all}, sizes.type);
  return {.run = [=, &device] { ops::add_columns(device, dy, columns.begin, dx); },
          .check =
              [=, &device] {
                expect_rows(device, "dx", dx, [&](std::int64_t i) {
                  Values expected(static_cast<std::size_t>(columns.all));
                  std::ranges::copy(row(device, dy, i), expected.begin() + columns.begin);
                  return expected;
                });
              },
          .bytes = bytes_of({dy, dy, dy})};
}

/// gelu(x) with the tanh approximation, and its derivative.
struct Gelu {
  double value, slope;
};
Gelu gelu(double x) {
  const double c = std::sqrt(2 / std::numbers::pi), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return {0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)};
}

Work gated_gelu_forward(Device& device, const Sizes& sizes) {
  return arithmetic(
      device, sizes.type, intermediate(sizes), 2, [](double gate, double up) { return gelu(gate).value * up; },
      ops::gated_gelu_forward);
}

Work gated_gelu_backward(Device& device, const Sizes& sizes) {
  const Shape shape = intermediate(sizes);
  const DType type = sizes.type;
  const Tensor dy = random_tensor(device, shape, 1, 1, type), gate = random_tensor(device, shape, 2, 4, type),
               up = random_tensor(device, shape, 3, 1, type), dgate = device.empty(shape, type),
               dup = device.empty(shape, type);
  const auto check = [=, &device] {
    expect_rows(device, "dgate", dgate, [&](std::int64_t i) {
      Values g = row(device, dy, i);
      const Values x = row(device, gate, i), u = row(device, up, i);
      for (std::size_t j = 0; j < g.size(); ++j) g[j] *= gelu(x[j]).slope * u[j];
      return g;
    });
    expect_rows(device, "dup", dup, [&](std::int64_t i) {
      Values g = row(device, dy, i);
      const Values x = row(device, gate, i);
      for (std::size_t j = 0; j < g.size(); ++j) g[j] *= gelu(x[j]).value;
      return g;
    });
  };
  return {.run = [=, &device] { ops::gated_gelu_backward(device, dy, gate, up, dgate, dup); },
          .check = check,
          .bytes = bytes_of({dy, gate, up, dgate, dup})};
}

}  // namespace

std::vector<Case> elementwise_cases() {
  return {{"add", "", add},
          {"add_scaled", "", add_scaled},
          {"scale", "", scale},
          {"accumulate", "", accumulate},
          {"convert", "", convert, is_fp32},
          {"concat_columns", "", concat_columns},
          {"split_columns", "", split_columns},
          {"copy_columns", "", copy_columns, has_layer_columns},
          {"add_columns", "", add_columns, has_layer_columns},
          {"gated_gelu_forward", "", gated_gelu_forward},
          {"gated_gelu_backward", "", gated_gelu_backward}};
}

}  // namespace mtp::bench
