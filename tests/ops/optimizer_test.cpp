#include "mtp/ops/optimizer.h"

#include <cmath>

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

class OptimizerTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, OptimizerTest, testing::ValuesIn(device_kinds()), device_name);

/// Weight and moments.
struct State {
  Tensor weight, moment1, moment2;
  State(Device& device, const Array& start)
      : weight(to_device(device, start)), moment1(device.zeros(start.shape)), moment2(device.zeros(start.shape)) {}
};

// The rates, the clip factor and the decay are those of make_reference_values.py.
TEST_P(OptimizerTest, StepsAreThoseOfPyTorch) {
  const nlohmann::json& entry = stored("adamw");
  Device device = make_device(GetParam());
  const State state(device, stored_array(entry.at("start")));
  AdamW settings{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 0, .gradient_factor = 0.5f};
  for (const nlohmann::json& gradient : entry.at("gradients")) {
    settings.lr = entry.at("rates").at(settings.step++);
    adamw(device, settings, to_device(device, stored_array(gradient)), state.weight, state.moment1, state.moment2);
  }
  expect_close("weight", to_host(device, state.weight), stored_array(entry.at("weight")), 1e-6);
  expect_close("first moment", to_host(device, state.moment1), stored_array(entry.at("moment1")), 1e-6);
  expect_close("second moment", to_host(device, state.moment2), stored_array(entry.at("moment2")), 1e-6);
}

TEST_P(OptimizerTest, AWeightWithoutGradientOnlyDecays) {
  Device device = make_device(GetParam());
  const State state(device, Array({2}, {2, -4}));
  adamw(device, {.lr = 0.5, .weight_decay = 0.25}, device.zeros({2}), state.weight, state.moment1, state.moment2);
  EXPECT_EQ(to_host(device, state.weight).values, (std::vector<double>{1.75, -3.5}));
}

TEST_P(OptimizerTest, BitsOfAStepDoNotDependOnThreads) {
  const Shape shape = {40000};  // several tasks
  expect_same_bits_on_any_threads(GetParam(), [&](Device& device) {
    const State state(device, random_array(shape, 1));
    const AdamW settings{.lr = 0.01, .weight_decay = 0.1, .step = 3};
    adamw(device, settings, to_device(device, random_array(shape, 2)), state.weight, state.moment1, state.moment2);
    return std::vector{state.weight, state.moment1, state.moment2};
  });
}

TEST_P(OptimizerTest, SquaresAreSummedByBlock) {
  const std::int64_t block = 1000, blocks = 7;
  const Array gradient = random_array({block * blocks}, 1);
  Array expected({blocks});
  for (std::int64_t i = 0; i < block * blocks; ++i)
    expected.values[i / block] += gradient.values[i] * gradient.values[i];
  Device device = make_device(GetParam());
  const Tensor sums = device.zeros({blocks}, DType::f64);
  sum_of_squares(device, to_device(device, gradient), block, sums);
  // fp64 sums of exact products: only their order may differ.
  expect_close("sums", to_host(device, sums), expected, 1e-14);
}

TEST_P(OptimizerTest, BitsOfSumsDoNotDependOnThreads) {
  expect_same_bits_on_any_threads(GetParam(), [](Device& device) {
    const Tensor sums = device.zeros({7}, DType::f64);
    sum_of_squares(device, to_device(device, random_array({7000}, 1)), 1000, sums);
    return std::vector{sums};
  });
}

}  // namespace
}  // namespace mtp::ops::test
