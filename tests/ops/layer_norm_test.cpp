#include "mtp/ops/layer_norm.h"

#include <cmath>

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

constexpr float eps = 1e-5f;

/// inputs: x, weight, bias or nothing
Array layer_norm_reference(const std::vector<Array>& inputs) {
  const Array& x = inputs[0];
  const std::int64_t width = x.shape.back(), rows = num_elements(x.shape) / width;
  Array y(x.shape);
  for (std::int64_t row = 0; row < rows; ++row) {
    double mean = 0, variance = 0;
    for (std::int64_t i = 0; i < width; ++i) mean += x(row, i) / static_cast<double>(width);
    for (std::int64_t i = 0; i < width; ++i) variance += std::pow(x(row, i) - mean, 2) / static_cast<double>(width);
    const double r = 1 / std::sqrt(variance + eps);
    for (std::int64_t i = 0; i < width; ++i)
      y(row, i) = (x(row, i) - mean) * r * inputs[1].values[i] + (inputs.size() > 2 ? inputs[2].values[i] : 0);
  }
  return y;
}

enum class Kind { with_bias, without_bias, frozen };

Operation layer_norm(const std::string& name, const Shape& shape, Kind kind) {
  std::vector<Array> arrays = {random_array(shape, 1), random_array({shape.back()}, 2)};
  if (kind == Kind::with_bias) arrays.push_back(random_array({shape.back()}, 4));
  return {.name = name,
          .inputs = arrays,
          .output_gradient = random_array(shape, 3),
          .reference = layer_norm_reference,
          .run =
              [kind](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor &x = inputs[0], &weight = inputs[1];
                const Tensor bias = kind == Kind::with_bias ? inputs[2] : Tensor();
                const Tensor y = to_write(device, x), dx = to_write(device, x);
                const Tensor statistics = to_write(device, {x.elements() / x.size(-1), 2});
                const Tensor dweight = kind == Kind::frozen ? Tensor() : to_add_to(device, weight.shape());
                layer_norm_forward(device, {.eps = eps}, x, weight, bias, y, statistics);
                layer_norm_backward(device, dy, x, weight, statistics, dx, dweight);
                if (kind != Kind::with_bias) return Result{y, {dx, dweight}};
                const Tensor dbias = to_add_to(device, bias.shape());
                add_bias_backward(device, dy, dbias);
                return Result{y, {dx, dweight, dbias}};
              },
          .added = {1, 2}};
}

INSTANTIATE_TEST_SUITE_P(LayerNorm, OperationTest,
                         on_every_device({layer_norm("one_row", {1, 5}, Kind::with_bias),
                                          layer_norm("many_rows", {150, 33}, Kind::without_bias),
                                          layer_norm("wide_rows", {70, 1200}, Kind::with_bias),
                                          layer_norm("frozen", {9, 40}, Kind::frozen),
                                          with_stored_values(layer_norm("", {5, 12}, Kind::with_bias), "layer_norm")}),
                         operation_name);

Operation bias(const std::string& name, std::int64_t rows, std::int64_t width) {
  return {.name = name,
          .inputs = {random_array({rows, width}, 1), random_array({width}, 2)},
          .output_gradient = random_array({rows, width}, 3),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y({rows, width});
                for (std::int64_t t = 0; t < rows; ++t)
                  for (std::int64_t i = 0; i < width; ++i) y(t, i) = inputs[0](t, i) + inputs[1].values[i];
                return y;
              },
          .run =
              [](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dbias = to_add_to(device, inputs[1].shape());
                add_bias(device, inputs[0], inputs[1], y);
                add_bias_backward(device, dy, dbias);
                return Result{y, {dy, dbias}};
              },
          .added = {1}};
}

INSTANTIATE_TEST_SUITE_P(AddBias, OperationTest, on_every_device({bias("one_row", 1, 3), bias("many_rows", 200, 300)}),
                         operation_name);

class LayerNormTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, LayerNormTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(LayerNormTest, ARowOfEqualNumbersIsTheBias) {
  Device device = make_device(GetParam());
  const Array bias({8}, {1, 2, 3, 4, 5, 6, 7, 8});
  const Tensor x = to_device(device, Array({1, 8}, std::vector<double>(8, 3.0))), y = to_write(device, x);
  layer_norm_forward(device, {.eps = eps}, x, to_device(device, random_array({8}, 1)), to_device(device, bias), y,
                     to_write(device, {1, 2}));
  EXPECT_EQ(to_host(device, y).values, bias.values);
}

}  // namespace
}  // namespace mtp::ops::test
