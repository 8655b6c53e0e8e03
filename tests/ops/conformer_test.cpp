#include "mtp/ops/conformer.h"

#include <cmath>

#include "mtp/ops/elementwise.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

using Lengths = std::vector<std::int64_t>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

Tensor as_fp32(Device& device, const Tensor& x) {
  Tensor y = device.empty(x.shape());
  convert(device, x, y);
  return y;
}

Tensor in_type(Device& device, const Tensor& x, const Tensor& like) {
  Tensor y = device.empty(x.shape(), like.dtype());
  convert(device, x, y);
  return y;
}

// ---------------------------------------------------------------- activations

Operation activation(const std::string& name, Activation kind, const Shape& shape) {
  return {.name = name,
          .inputs = {random_array(shape, 1, 6)},
          .output_gradient = random_array(shape, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::size_t i = 0; i < y.values.size(); ++i) {
                  const double x = inputs[0].values[i];
                  y.values[i] = kind == Activation::relu ? std::max(x, 0.0) : x * sigmoid(x);
                }
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, dy);
                activation_forward(device, kind, inputs[0], y);
                activation_backward(device, kind, dy, inputs[0], dx);
                return Result{y, {dx}};
              }};
}

Operation gated_sigmoid(const std::string& name, std::int64_t rows, std::int64_t width) {
  const Shape shape = {rows, width};
  return {.name = name,
          .inputs = {random_array({rows, 2 * width}, 1, 4)},
          .output_gradient = random_array(shape, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::int64_t t = 0; t < rows; ++t)
                  for (std::int64_t i = 0; i < width; ++i) y(t, i) = inputs[0](t, i) * sigmoid(inputs[0](t, width + i));
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, inputs[0]);
                gated_sigmoid_forward(device, inputs[0], y);
                gated_sigmoid_backward(device, dy, inputs[0], dx);
                return Result{y, {dx}};
              }};
}

INSTANTIATE_TEST_SUITE_P(Activation, OperationTest,
                         on_every_device({activation("relu", Activation::relu, {3, 50}),
                                          activation("silu", Activation::silu, {2, 700}),
                                          with_stored_values(activation("", Activation::silu, {4, 9}), "silu"),
                                          gated_sigmoid("gated_sigmoid", 5, 300),
                                          with_stored_values(gated_sigmoid("", 4, 6), "gated_sigmoid")}),
                         operation_name);

// ---------------------------------------------------------------- convolutions

Lengths halves(Lengths lengths) {
  for (std::int64_t& n : lengths) n = (n + 1) / 2;
  return lengths;
}

Operation neighbours(const std::string& name, const Lengths& lengths, std::int64_t frequencies, std::int64_t channels) {
  const Sequences in(lengths), out(halves(lengths));
  const std::int64_t half = (frequencies + 1) / 2;
  const Shape shape = {out.rows() * half, 9 * channels};
  return {.name = name,
          .inputs = {random_array({in.rows() * frequencies, channels}, 1)},
          .output_gradient = random_array(shape, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::int64_t b = 0; b < in.count(); ++b)
                  for (std::int64_t t = 0; t < out.length(b); ++t)
                    for (std::int64_t f = 0; f < half; ++f)
                      for (std::int64_t c = 0; c < channels; ++c)
                        for (std::int64_t i = 0; i < 3; ++i)
                          for (std::int64_t j = 0; j < 3; ++j) {
                            const std::int64_t time = 2 * t - 1 + i, frequency = 2 * f - 1 + j;
                            if (time < 0 || time >= in.length(b) || frequency < 0 || frequency >= frequencies) continue;
                            y((out.begin(b) + t) * half + f, c * 9 + i * 3 + j) =
                                inputs[0]((in.begin(b) + time) * frequencies + frequency, c);
                          }
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, inputs[0]);
                neighbours_forward(device, {in, frequencies}, {out, half}, inputs[0], y);
                neighbours_backward(device, {in, frequencies}, {out, half}, dy, dx);
                return Result{y, {dx}};
              }};
}

Operation convolution(const std::string& name, const Lengths& lengths, std::int64_t width, std::int64_t taps) {
  const Sequences clips(lengths);
  const Shape shape = {clips.rows(), width};
  return {.name = name,
          .inputs = {random_array(shape, 1), random_array({width, 1, taps}, 2)},
          .output_gradient = random_array(shape, 3),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::int64_t b = 0; b < clips.count(); ++b)
                  for (std::int64_t t = clips.begin(b); t < clips.end(b); ++t)
                    for (std::int64_t i = 0; i < width; ++i)
                      for (std::int64_t m = 0; m < taps; ++m)
                        if (const std::int64_t from = t - taps + 1 + m; from >= clips.begin(b))
                          y(t, i) += inputs[1].values[i * taps + m] * inputs[0](from, i);
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, dy),
                             dw = to_add_to(device, inputs[1].shape());
                causal_convolution_forward(device, clips, inputs[0], inputs[1], y);
                causal_convolution_backward_input(device, clips, dy, inputs[1], dx);
                causal_convolution_backward_weight(device, clips, dy, inputs[0], dw);
                return Result{y, {dx, dw}};
              },
          .added = {1}};
}

INSTANTIATE_TEST_SUITE_P(
    SoundConvolution, OperationTest,
    on_every_device({neighbours("one_frame", {1}, 4, 1), neighbours("several_clips", {6, 1, 5, 2}, 5, 3),
                     with_stored_values(neighbours("", {5}, 6, 2), "neighbours"),
                     convolution("causal", {1, 7, 3, 80}, 20, 5), convolution("one_tap", {4}, 3, 1),
                     with_stored_values(convolution("", {7}, 6, 3), "causal_convolution")}),
    operation_name);

// ---------------------------------------------------------------- attention

Operation scaling(const std::string& name, std::int64_t rows, std::int64_t width, float factor) {
  const Shape shape = {rows, width};
  return {.name = name,
          .inputs = {random_array(shape, 1), random_array({width}, 2, 3)},
          .output_gradient = random_array(shape, 3),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::int64_t t = 0; t < rows; ++t)
                  for (std::int64_t i = 0; i < width; ++i)
                    y(t, i) = factor * std::log1p(std::exp(inputs[1].values[i])) * inputs[0](t, i);
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor x = as_fp32(device, inputs[0]), d = as_fp32(device, dy);
                const Tensor y = to_write(device, shape), dx = to_write(device, shape),
                             ds = to_add_to(device, Shape{width});
                scale_by_softplus_forward(device, factor, x, inputs[1], y);
                scale_by_softplus_backward(device, factor, d, x, inputs[1], dx, ds);
                return Result{in_type(device, y, dy), {in_type(device, dx, dy), ds}};
              },
          .added = {1}};
}

Operation local_attention(const std::string& name, const Lengths& lengths, std::int64_t heads, std::int64_t d,
                          const LocalAttention& attention) {
  const Sequences clips(lengths);
  const Shape shape = {clips.rows(), heads, d}, of_distances = {attention.span, heads, d};
  return {
      .name = name,
      .inputs = {random_array(shape, 1), random_array(shape, 2), random_array(shape, 3), random_array(of_distances, 4)},
      .output_gradient = random_array(shape, 5),
      .reference =
          [=](const std::vector<Array>& inputs) {
            Array y(shape);
            for (std::int64_t b = 0; b < clips.count(); ++b)
              for (std::int64_t t = clips.begin(b); t < clips.end(b); ++t)
                for (std::int64_t h = 0; h < heads; ++h) {
                  double sum = 0;
                  for (std::int64_t n = 0; n < attention.span && t - n >= clips.begin(b); ++n) {
                    const std::int64_t row = t * heads + h, seen = (t - n) * heads + h;
                    double z = 0;
                    for (std::int64_t i = 0; i < d; ++i)
                      z += inputs[0](row, i) * (inputs[1](seen, i) + inputs[3](n * heads + h, i));
                    const double weight = std::exp(attention.cap * std::tanh(z / attention.cap));
                    sum += weight;
                    for (std::int64_t i = 0; i < d; ++i) y(row, i) += weight * inputs[2](seen, i);
                  }
                  for (std::int64_t i = 0; i < d; ++i) y(t * heads + h, i) /= sum;
                }
            return y;
          },
      .run =
          [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
            const LocalAttentionInputs in{as_fp32(device, inputs[0]), as_fp32(device, inputs[1]),
                                          as_fp32(device, inputs[2]), as_fp32(device, inputs[3])};
            const LocalAttentionInputs gradients{to_write(device, shape), to_write(device, shape),
                                                 to_write(device, shape), to_write(device, of_distances)};
            const Tensor y = to_write(device, shape), scores = to_write(device, {clips.rows(), heads, attention.span});
            local_attention_forward(device, attention, clips, in, y, scores);
            local_attention_backward(device, attention, clips, as_fp32(device, dy), in, scores, gradients);
            return Result{in_type(device, y, dy),
                          {in_type(device, gradients.q, dy), in_type(device, gradients.k, dy),
                           in_type(device, gradients.v, dy), in_type(device, gradients.r, dy)}};
          }};
}

INSTANTIATE_TEST_SUITE_P(
    LocalAttention, OperationTest,
    on_every_device({scaling("softplus", 70, 5, 1.7f), with_stored_values(scaling("", 6, 4, 0.5f), "softplus_scale"),
                     local_attention("several_clips", {1, 9, 3}, 3, 4, {4, 2}),
                     local_attention("itself_alone", {3}, 1, 2, {1, 50}),
                     with_stored_values(local_attention("", {7}, 2, 6, {4, 2}), "local_attention")}),
    operation_name);

}  // namespace
}  // namespace mtp::ops::test
