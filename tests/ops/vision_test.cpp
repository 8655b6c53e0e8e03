#include "mtp/ops/vision.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/matmul.h"
#include "mtp/ops/rope.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

using Sizes = std::vector<PatchGrids::Size>;

PatchGrids grids_of(const Sizes& sizes) {
  PatchGrids grids;
  for (const PatchGrids::Size& size : sizes) grids.add(size);
  return grids;
}

Tensor positions_of(Device& device, const PatchGrids& grids) { return device.from_host(grids.positions()); }

Tensor as_fp32(Device& device, const Tensor& x) {
  Tensor y = device.empty(x.shape());
  convert(device, x, y);
  return y;
}

TEST(PatchGrids, PackImagesRowByRow) {
  const PatchGrids grids = grids_of({{3, 2}, {1, 2}});
  EXPECT_EQ(grids.rows(), 8);
  EXPECT_EQ(grids.begin(1), 6);
  EXPECT_EQ(grids.positions(), (std::vector<std::int64_t>{0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1}));
  EXPECT_EQ(grids.sequences().count(), 2);
  EXPECT_EQ(grids.sequences().length(0), 6);
}

// ---------------------------------------------------------------- rotation

Operation rotation(const std::string& name, const Sizes& sizes, std::int64_t heads, const Rope& rope) {
  const PatchGrids grids = grids_of(sizes);
  const auto quarter = static_cast<std::int64_t>(rope.inverse_frequencies.size());
  const Shape shape = {grids.rows(), heads, 4 * quarter};
  return {.name = name,
          .inputs = {random_array(shape, 1)},
          .output_gradient = random_array(shape, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                const std::vector<std::int64_t> positions = grids.positions();
                Array y(shape);
                for (std::int64_t row = 0; row < grids.rows() * heads; ++row)
                  for (const std::int64_t axis : {0, 1})
                    for (std::int64_t i = 0; i < quarter; ++i) {
                      const auto position = static_cast<float>(positions[axis * grids.rows() + row / heads]);
                      const double angle = position * rope.inverse_frequencies[i];  // fp32 by definition
                      const std::int64_t low = axis * 2 * quarter + i, high = low + quarter;
                      y(row, low) = inputs[0](row, low) * std::cos(angle) - inputs[0](row, high) * std::sin(angle);
                      y(row, high) = inputs[0](row, high) * std::cos(angle) + inputs[0](row, low) * std::sin(angle);
                    }
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor positions = positions_of(device, grids);
                const Tensor y = to_write(device, dy), dx = to_write(device, dy);
                rope_2d_forward(device, rope, positions, inputs[0], y);
                rope_2d_backward(device, rope, positions, dy, dx);
                return Result{y, {dx}};
              }};
}

std::vector<float> stored_frequencies() {
  return stored("rope_2d").at("inverse_frequencies").get<std::vector<float>>();
}

INSTANTIATE_TEST_SUITE_P(Rope2d, OperationTest,
                         on_every_device({rotation("one_patch", {{1, 1}}, 1, {{1}}),
                                          rotation("several_images", {{9, 4}, {1, 3}, {2, 30}}, 3, {{1, 0.5, 0.25}}),
                                          with_stored_values(rotation("", {{6, 3}, {3, 6}}, 2, {stored_frequencies()}),
                                                             "rope_2d")}),
                         operation_name);

// ---------------------------------------------------------------- pooling

Operation pooling(const std::string& name, const Sizes& sizes, std::int64_t k, std::int64_t width, float factor) {
  const PatchGrids grids = grids_of(sizes);
  const Shape pooled = {grids.rows() / (k * k), width};
  return {.name = name,
          .inputs = {random_array({grids.rows(), width}, 1)},
          .output_gradient = random_array(pooled, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(pooled);
                for (std::int64_t i = 0; i < grids.count(); ++i)
                  for (std::int64_t p = 0; p < grids.size(i).patches(); ++p) {
                    const std::int64_t columns = grids.size(i).width, x = p % columns / k, line = p / columns / k;
                    const std::int64_t token = grids.begin(i) / (k * k) + line * (columns / k) + x;
                    for (std::int64_t c = 0; c < width; ++c)
                      y(token, c) += factor / static_cast<double>(k * k) * inputs[0](grids.begin(i) + p, c);
                  }
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, pooled), dx = to_write(device, inputs[0]);
                pool_patches_forward(device, grids, k, factor, inputs[0], y);
                pool_patches_backward(device, grids, k, factor, as_fp32(device, dy), dx);
                const Tensor rounded = to_write(device, dy);  // as the mean within is
                convert(device, y, rounded);
                return Result{rounded, {dx}};
              }};
}

INSTANTIATE_TEST_SUITE_P(PoolPatches, OperationTest,
                         on_every_device({pooling("single_patches", {{2, 3}}, 1, 4, 2),
                                          pooling("several_images", {{6, 4}, {2, 2}, {4, 10}}, 2, 300, 3),
                                          with_stored_values(pooling("", {{6, 3}, {3, 6}}, 3, 5, std::sqrt(5.0f)),
                                                             "pool_patches")}),
                         operation_name);

// ---------------------------------------------------------------- standardisation

Operation standardization(const std::string& name, std::int64_t rows, std::int64_t width) {
  const Shape shape = {rows, width};
  return {.name = name,
          .inputs = {random_array(shape, 1), random_array({width}, 2), random_array({width}, 3)},
          .output_gradient = random_array(shape, 4),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::int64_t t = 0; t < rows; ++t)
                  for (std::int64_t i = 0; i < width; ++i)
                    y(t, i) = (inputs[0](t, i) - inputs[1].values[i]) * inputs[2].values[i];
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, shape);
                standardize_forward(device, as_fp32(device, inputs[0]), inputs[1], inputs[2], y);
                standardize_backward(device, dy, inputs[2], dx);
                return Result{y, {dx, Tensor(), Tensor()}};
              }};
}

INSTANTIATE_TEST_SUITE_P(Standardize, OperationTest,
                         on_every_device({standardization("small", 1, 3), standardization("large", 40, 300)}),
                         operation_name);

// ---------------------------------------------------------------- clipped linear layers

constexpr Bounds input_bounds{-0.7f, 0.8f}, output_bounds{-0.9f, 1.1f};

Operation clamping(const std::string& name, const Shape& shape) {
  return {.name = name,
          .inputs = {random_array(shape, 1, 2)},
          .output_gradient = random_array(shape, 2),
          .reference =
              [](const std::vector<Array>& inputs) {
                Array y = inputs[0];
                for (double& value : y.values) value = std::clamp<double>(value, input_bounds.least, input_bounds.most);
                return y;
              },
          .run =
              [](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, dy);
                clamp_forward(device, input_bounds, inputs[0], y);
                clamp_backward(device, input_bounds, dy, inputs[0], dx);
                return Result{y, {dx}};
              }};
}

INSTANTIATE_TEST_SUITE_P(Clamp, OperationTest,
                         on_every_device({clamping("small", {3, 7}), clamping("large", {40, 304})}), operation_name);

class VisionTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, VisionTest, testing::ValuesIn(device_kinds()), device_name);

// As a tower has it: the input is clamped, multiplied, and the product is clamped.
TEST_P(VisionTest, AClippedLinearLayerIsThatOfHuggingFace) {
  Device device = make_device(GetParam());
  const nlohmann::json& entry = stored("clipped_linear");
  const auto tensor_of = [&](const nlohmann::json& array) { return to_device(device, stored_array(array)); };
  const Tensor x = tensor_of(entry.at("inputs").at(0)), w = tensor_of(entry.at("inputs").at(1));
  const Tensor dy = tensor_of(entry.at("output_gradient"));
  const Tensor clipped = to_write(device, x), product = to_write(device, dy), y = to_write(device, dy);
  clamp_forward(device, input_bounds, x, clipped);
  linear_forward(device, clipped, w, product);
  clamp_forward(device, output_bounds, product, y);
  const Tensor dproduct = to_write(device, dy), dx = to_write(device, x), dw = device.zeros(w.shape());
  clamp_backward(device, output_bounds, dy, product, dproduct);
  linear_backward_input(device, dproduct, w, dx);
  clamp_backward(device, input_bounds, dx, x, dx);
  linear_backward_weight(device, dproduct, clipped, dw);
  expect_close("y", to_host(device, y), stored_array(entry.at("output")));
  expect_close("dx", to_host(device, dx), stored_array(entry.at("gradients").at(0)));
  expect_close("dw", to_host(device, dw), stored_array(entry.at("gradients").at(1)));
}

TEST_P(VisionTest, AClampPassesGradientsOnItsBoundsAndNoneBeyond) {
  Device device = make_device(GetParam());
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Array x({1, 5}, {-1.0625, -1, 0, 2, 2.0625}), dy({1, 5}, {1, 2, 3, 4, 5});
  const auto results = [&](const Bounds& bounds) {
    const Tensor y = to_write(device, x.shape), dx = to_device(device, dy);
    clamp_forward(device, bounds, to_device(device, x), y);
    clamp_backward(device, bounds, dx, to_device(device, x), dx);
    return std::pair(to_host(device, y).values, to_host(device, dx).values);
  };
  EXPECT_EQ(results({-1, 2}), std::pair(std::vector<double>{-1, -1, 0, 2, 2}, std::vector<double>{0, 2, 3, 4, 0}));
  EXPECT_EQ(results({-infinity, infinity}), std::pair(x.values, dy.values));
}

TEST_P(VisionTest, PixelsAreThoseOfTheImageProcessor) {
  Device device = make_device(GetParam());
  const Tensor on_host = device.empty_on_host({2, 128}, DType::u8), bytes = device.empty({2, 128}, DType::u8);
  std::iota(on_host.data<std::uint8_t>(), on_host.data<std::uint8_t>() + 256, std::uint8_t{0});
  device.copy_from_host(on_host, bytes);
  const Tensor y = to_write(device, {2, 128});
  pixels(device, {.middle = 0.5f, .factor = 2}, bytes, y);
  const Array values = to_host(device, y);
  for (int u = 0; u < 256; ++u) {
    const float scaled = static_cast<float>(u) * 0x1.010102p-8f;  // 1/255 rounded to fp32
    EXPECT_EQ(values.values[u], 2 * (scaled - 0.5f)) << u;
  }
}

TEST_P(VisionTest, SoftTokensTakeTheirRows) {
  Device device = make_device(GetParam());
  for (const std::int64_t width : {3, 16}) {
    const Array x = random_array({2, width}, 1), before = random_array({5, width}, 2);
    const Tensor rows = device.from_host(std::vector<std::int64_t>{3, 1}), y = to_device(device, before);
    put_rows(device, to_device(device, x), rows, y);
    const Array after = to_host(device, y);
    for (std::int64_t t = 0; t < 5; ++t)
      for (std::int64_t i = 0; i < width; ++i)
        EXPECT_EQ(after(t, i), t == 3 ? x(0, i) : t == 1 ? x(1, i) : before(t, i));
  }
}

}  // namespace
}  // namespace mtp::ops::test
