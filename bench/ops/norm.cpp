#include "mtp/ops/norm.h"

#include <cmath>

#include "cases.h"

namespace mtp::bench {

namespace {

double reciprocal_rms(const Values& x) {
  return 1 / std::sqrt(dot(x, x) / static_cast<double>(x.size()) + static_cast<double>(ops::RmsNorm{}.eps));
}

Work forward(Device& device, const Shape& shape, DType type) {
  const Tensor x = random_tensor(device, shape, 1, 1, type), weight = random_tensor(device, {shape.back()}, 2, 1, type),
               y = device.empty(shape, type), rrms = device.empty({x.elements() / shape.back()});
  return {.run = [=, &device] { ops::rms_norm_forward(device, {}, x, weight, y, rrms); },
          .check =
              [=, &device] {
                const Values w = row(device, weight, 0);
                expect_rows(device, "y", y, [&](std::int64_t i) {
                  Values expected = row(device, x, i);
                  const double r = reciprocal_rms(expected);
                  for (std::size_t j = 0; j < w.size(); ++j) expected[j] *= r * w[j];
                  return expected;
                });
              },
          .bytes = bytes_of({x, weight, y, rrms})};
}

Work add_forward(Device& device, const Sizes& s) {
  const Shape shape{s.rows, s.base.hidden_size};
  const Tensor x = random_tensor(device, shape, 1, 1, s.type), weight = random_tensor(device, {shape[1]}, 2, 1, s.type),
               residual = random_tensor(device, shape, 3, 1, s.type), y = device.empty(shape, s.type),
               rrms = device.empty({s.rows});
  return {.run = [=, &device] { ops::add_rms_norm_forward(device, {}, residual, x, weight, y, rrms); },
          .check =
              [=, &device] {
                const Values w = row(device, weight, 0);
                expect_rows(device, "y", y, [&](std::int64_t i) {
                  const Values in = row(device, x, i);
                  Values expected = row(device, residual, i);
                  const double r = reciprocal_rms(in);
                  for (std::size_t j = 0; j < w.size(); ++j) expected[j] += in[j] * r * w[j];
                  return expected;
                });
              },
          .bytes = bytes_of({residual, x, weight, y, rrms})};
}

Work backward(Device& device, const Shape& shape, DType type) {
  const Tensor x = random_tensor(device, shape, 1, 1, type), weight = random_tensor(device, {shape.back()}, 2, 1, type),
               dy = random_tensor(device, shape, 3, 1, type), dx = device.empty(shape, type),
               rrms = device.empty({x.elements() / shape.back()}), dweight = device.zeros({shape.back()});
  ops::rms_norm_forward(device, {}, x, weight, dx, rrms);
  const auto check = [=, &device] {
    const Values w = row(device, weight, 0);
    expect_rows(device, "dx", dx, [&](std::int64_t i) {
      const Values in = row(device, x, i);
      Values g = row(device, dy, i);
      for (std::size_t j = 0; j < w.size(); ++j) g[j] *= w[j];
      const double r = reciprocal_rms(in), mean = dot(g, in) * r * r / static_cast<double>(w.size());
      for (std::size_t j = 0; j < w.size(); ++j) g[j] = r * (g[j] - in[j] * mean);
      return g;
    });
    Values expected(w.size());
    for (std::int64_t i = 0; i < rrms.elements(); ++i) {
      const Values in = row(device, x, i), g = row(device, dy, i);
      const double r = reciprocal_rms(in);
      for (std::size_t j = 0; j < w.size(); ++j) expected[j] += g[j] * in[j] * r;
    }
    expect_close("dweight", row(device, dweight, 0), expected);
  };
  return {.run = [=, &device] { ops::rms_norm_backward(device, dy, x, weight, rrms, dx, dweight); },
          .check = check,
          .bytes = bytes_of({x, weight, dy, rrms, dx, dweight, dweight})};
}

Shape hidden(const Sizes& s) { return {s.rows, s.base.hidden_size}; }

/// The norm of the queries.
Shape heads(const Sizes& s) {
  return {s.rows, s.base.num_attention_heads, s.base.layer_of(hf::LayerType::sliding)->head_dim};
}

}  // namespace

std::vector<Case> norm_cases() {
  return {{"rms_norm_forward", "", [](Device& d, const Sizes& s) { return forward(d, hidden(s), s.type); }},
          {"rms_norm_backward", "", [](Device& d, const Sizes& s) { return backward(d, hidden(s), s.type); }},
          {"add_rms_norm_forward", "", add_forward},
          {"rms_norm_forward", "heads", [](Device& d, const Sizes& s) { return forward(d, heads(s), s.type); }},
          {"rms_norm_backward", "heads", [](Device& d, const Sizes& s) { return backward(d, heads(s), s.type); }}};
}

}  // namespace mtp::bench
