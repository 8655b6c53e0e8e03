#include "mtp/ops/norm.h"

#include <cmath>

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

constexpr float eps = 1e-6f;

/// inputs: x, weight or nothing, what is added or nothing
Array rms_norm_reference(const std::vector<Array>& inputs) {
  const Array& x = inputs[0];
  const std::int64_t width = x.shape.back(), rows = num_elements(x.shape) / width;
  Array y(x.shape);
  for (std::int64_t row = 0; row < rows; ++row) {
    double square = 0;
    for (std::int64_t i = 0; i < width; ++i) square += x(row, i) * x(row, i);
    const double r = 1 / std::sqrt(square / static_cast<double>(width) + eps);
    for (std::int64_t i = 0; i < width; ++i)
      y(row, i) = x(row, i) * r * (inputs.size() > 1 ? inputs[1].values[i] : 1) +
                  (inputs.size() > 2 ? inputs[2].values[row * width + i] : 0);
  }
  return y;
}

enum class Weight { none, frozen, trained };

Operation rms_norm(const std::string& name, const Shape& shape, Weight kind) {
  std::vector<Array> arrays = {random_array(shape, 1)};
  if (kind != Weight::none) arrays.push_back(random_array({shape.back()}, 2));
  return {.name = name,
          .inputs = arrays,
          .output_gradient = random_array(shape, 3),
          .reference = rms_norm_reference,
          .run =
              [kind](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor& x = inputs[0];
                const Tensor weight = kind == Weight::none ? Tensor() : inputs[1];
                const Tensor y = to_write(device, x), dx = to_write(device, x);
                const Tensor rrms = to_write(device, {x.elements() / x.size(-1)});
                const Tensor dweight = kind == Weight::trained ? to_add_to(device, weight.shape()) : Tensor();
                rms_norm_forward(device, {.eps = eps}, x, weight, y, rrms);
                rms_norm_backward(device, dy, x, weight, rrms, dx, dweight);
                if (kind == Weight::none) return Result{y, {dx}};
                return Result{y, {dx, dweight}};
              },
          .added = {1}};
}

Operation add_rms_norm(const std::string& name, const Shape& shape) {
  return {.name = name,
          .inputs = {random_array(shape, 1), random_array({shape.back()}, 2), random_array(shape, 4)},
          .output_gradient = random_array(shape, 3),
          .reference = rms_norm_reference,
          .run =
              [](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor &x = inputs[0], &weight = inputs[1], &residual = inputs[2];
                const Tensor y = to_write(device, x), dx = to_write(device, x);
                const Tensor rrms = to_write(device, {x.elements() / x.size(-1)});
                const Tensor dweight = to_add_to(device, weight.shape());
                add_rms_norm_forward(device, {.eps = eps}, residual, x, weight, y, rrms);
                rms_norm_backward(device, dy, x, weight, rrms, dx, dweight);
                return Result{y, {dx, dweight, dy}};
              },
          .added = {1}};
}

INSTANTIATE_TEST_SUITE_P(AddRmsNorm, OperationTest,
                         on_every_device({add_rms_norm("one_row", {1, 5}), add_rms_norm("many_rows", {150, 33})}),
                         operation_name);

INSTANTIATE_TEST_SUITE_P(
    RmsNorm, OperationTest,
    on_every_device({rms_norm("one_row", {1, 5}, Weight::trained), rms_norm("many_rows", {150, 33}, Weight::trained),
                     rms_norm("of_heads", {70, 3, 16}, Weight::trained), rms_norm("frozen", {9, 40}, Weight::frozen),
                     rms_norm("without_weight", {70, 20}, Weight::none),
                     with_stored_values(rms_norm("", {5, 12}, Weight::trained), "rms_norm"),
                     with_stored_values(rms_norm("", {5, 12}, Weight::none), "rms_norm_without_weight")}),
    operation_name);

class RmsNormTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, RmsNormTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(RmsNormTest, ARowOfZerosStaysZero) {
  Device device = make_device(GetParam());
  const Tensor x = device.zeros({1, 8}), y = to_write(device, {1, 8}), rrms = to_write(device, {1});
  rms_norm_forward(device, {.eps = eps}, x, Tensor(), y, rrms);
  EXPECT_EQ(to_host(device, y).values, std::vector<double>(8, 0.0));
}

}  // namespace
}  // namespace mtp::ops::test
