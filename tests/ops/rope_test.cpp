#include "mtp/ops/rope.h"

#include <cmath>

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

Array rope_reference(const Rope& rope, const std::vector<std::int64_t>& lengths, const Array& x) {
  const std::int64_t heads = x.size(1), half = x.size(2) / 2;
  Array y(x.shape);
  std::int64_t row = 0;
  for (const std::int64_t length : lengths)
    for (std::int64_t t = 0; t < length; ++t)
      for (std::int64_t head = 0; head < heads; ++head, ++row)
        for (std::int64_t i = 0; i < half; ++i) {
          // The angle is fp32 by definition: Gemma4TextRotaryEmbedding multiplies in fp32.
          const double angle = static_cast<float>(t + rope.position_offset) * rope.inverse_frequencies[i];
          y(row, i) = x(row, i) * std::cos(angle) - x(row, i + half) * std::sin(angle);
          y(row, i + half) = x(row, i + half) * std::cos(angle) + x(row, i) * std::sin(angle);
        }
  return y;
}

Operation rotation(const std::string& name, const Rope& rope, const std::vector<std::int64_t>& lengths,
                   std::int64_t heads) {
  const Sequences sequences(lengths);
  const Shape shape = {sequences.rows(), heads, 2 * static_cast<std::int64_t>(rope.inverse_frequencies.size())};
  return {.name = name,
          .inputs = {random_array(shape, 1)},
          .output_gradient = random_array(shape, 2),
          .reference = [=](const std::vector<Array>& inputs) { return rope_reference(rope, lengths, inputs[0]); },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, dy);
                rope_forward(device, rope, sequences, inputs[0], y);
                rope_backward(device, rope, sequences, dy, dx);
                return Result{y, {dx}};
              }};
}

std::vector<float> plain_frequencies(std::int64_t half) {
  std::vector<float> frequencies(half);
  for (std::int64_t i = 0; i < half; ++i)
    frequencies[i] = std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half));
  return frequencies;
}

std::vector<float> stored_frequencies(const std::string& name) {
  return stored(name).at("inverse_frequencies").get<std::vector<float>>();
}

INSTANTIATE_TEST_SUITE_P(
    Rope, OperationTest,
    on_every_device({rotation("one_row", {plain_frequencies(2)}, {1}, 1),
                     rotation("several_sequences", {plain_frequencies(16)}, {70, 1, 30}, 3),
                     rotation("offset", {plain_frequencies(4), 1}, {20, 5}, 2),
                     rotation("partly_rotated", {{1, 0.5, 0, 0}, 1}, {20, 5}, 2),
                     with_stored_values(rotation("", {stored_frequencies("rope_sliding_attention"), 0}, {6}, 2),
                                        "rope_sliding_attention"),
                     with_stored_values(rotation("", {stored_frequencies("rope_full_attention"), 1}, {6}, 2),
                                        "rope_full_attention")}),
    operation_name);

class RopeTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, RopeTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(RopeTest, RotatesInPlace) {
  Device device = make_device(GetParam());
  const Rope rope{plain_frequencies(4)};
  const Sequences sequences({9});
  const Tensor x = to_device(device, random_array({9, 2, 8}, 1)), y = to_write(device, x.shape());
  rope_forward(device, rope, sequences, x, y);
  rope_forward(device, rope, sequences, x, x);
  EXPECT_EQ(to_host(device, x).values, to_host(device, y).values);
}

}  // namespace
}  // namespace mtp::ops::test
