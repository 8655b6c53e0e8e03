#include "mtp/ops/optimizer.h"

#include <bit>
#include <cmath>

#include "mtp/ops/elementwise.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

class OptimizerTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, OptimizerTest, testing::ValuesIn(device_kinds()), device_name);

/// A gradient of zeros, and moments of zeros of `dtype`, for weights.
AdamWShard make_shard(Device& device, const Array& weight, DType dtype = DType::f32) {
  return {.gradient = device.zeros(weight.shape),
          .weight = to_device(device, weight),
          .moment1 = device.zeros(weight.shape, dtype),
          .moment2 = device.zeros(weight.shape, dtype)};
}

void step_once(Device& device, const AdamW& settings, const AdamWShard& shard) { adamw(device, settings, {&shard, 1}); }

std::vector<Tensor> state_of(const AdamWShard& shard) { return {shard.weight, shard.moment1, shard.moment2}; }

// The rates, the clip factor and the decay are those of make_reference_values.py.
TEST_P(OptimizerTest, StepsAreThoseOfPyTorch) {
  const nlohmann::json& entry = stored("adamw");
  Device device = make_device(GetParam());
  AdamWShard shard = make_shard(device, stored_array(entry.at("start")));
  AdamW settings{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 0, .gradient_factor = 0.5f};
  for (const nlohmann::json& gradient : entry.at("gradients")) {
    settings.lr = entry.at("rates").at(settings.step++);
    shard.gradient = to_device(device, stored_array(gradient));
    step_once(device, settings, shard);
  }
  expect_close("weight", to_host(device, shard.weight), stored_array(entry.at("weight")), 1e-6);
  expect_close("first moment", to_host(device, shard.moment1), stored_array(entry.at("moment1")), 1e-6);
  expect_close("second moment", to_host(device, shard.moment2), stored_array(entry.at("moment2")), 1e-6);
}

TEST_P(OptimizerTest, AWeightWithoutGradientOnlyDecays) {
  Device device = make_device(GetParam());
  const AdamWShard shard = make_shard(device, Array({2}, {2, -4}));
  step_once(device, {.lr = 0.5, .weight_decay = 0.25}, shard);
  EXPECT_EQ(to_host(device, shard.weight).values, (std::vector<double>{1.75, -3.5}));
}

TEST_P(OptimizerTest, BitsOfAStepDoNotDependOnThreads) {
  const Shape shape = {40000};  // several tasks
  for (const DType moments : {DType::f32, DType::bf16})
    expect_same_bits_on_any_threads(GetParam(), [&](Device& device) {
      AdamWShard shard = make_shard(device, random_array(shape, 1), moments);
      shard.gradient = to_device(device, random_array(shape, 2));
      shard.rounded_weight = device.empty(shape, DType::bf16);
      for (int step = 1; step <= 2; ++step) step_once(device, {.lr = 0.01, .weight_decay = 0.1, .step = step}, shard);
      std::vector<Tensor> all = state_of(shard);
      all.push_back(shard.rounded_weight);
      return all;
    });
}

TEST_P(OptimizerTest, TheRoundedWeightsAreTheNewOnesRounded) {
  for (const std::int64_t n : {4096, 4099}) {  // four at a time and one by one
    Device device = make_device(GetParam());
    AdamWShard shard = make_shard(device, random_array({n}, 1));
    shard.gradient = to_device(device, random_array({n}, 2));
    shard.rounded_weight = device.empty({n}, DType::bf16);
    step_once(device, {.lr = 0.01}, shard);
    const Tensor expected = device.empty({n}, DType::bf16);
    convert(device, shard.weight, expected);
    EXPECT_EQ(to_host(device, shard.rounded_weight).values, to_host(device, expected).values);
  }
}

// A step that leaves the moments as they are but for rounding, on many copies of a few numbers.
TEST_P(OptimizerTest, MomentsInBf16AreRoundedToANeighbourAndRightOnAverage) {
  const std::int64_t copies = 40000;
  const std::vector<float> numbers = {1.0f, 1.001953125f, -1.005f, 3e-7f, -0.3333f, 1e-39f};
  const auto n = static_cast<std::int64_t>(numbers.size());
  Array gradient({copies, n});
  for (std::int64_t i = 0; i < copies; ++i)
    for (std::int64_t j = 0; j < n; ++j) gradient(i, j) = numbers[j];
  Device device = make_device(GetParam());
  AdamWShard shard = make_shard(device, Array({copies, n}), DType::bf16);
  shard.gradient = to_device(device, gradient);
  step_once(device, {.lr = 0, .beta1 = 0, .beta2 = 0}, shard);  // the moments become g and g²
  const Array first = to_host(device, shard.moment1), second = to_host(device, shard.moment2);
  for (std::int64_t j = 0; j < n; ++j)
    for (const auto& [moments, exact] : {std::pair(&first, numbers[j]), std::pair(&second, numbers[j] * numbers[j])}) {
      const float below = std::bit_cast<float>(std::bit_cast<std::uint32_t>(exact) & 0xFFFF0000u);
      const float above = std::bit_cast<float>(std::bit_cast<std::uint32_t>(below) + 0x10000u);
      const double gap = static_cast<double>(above) - below, part = (static_cast<double>(exact) - below) / gap;
      double ups = 0;
      for (std::int64_t i = 0; i < copies; ++i) {
        const double value = (*moments)(i, j);
        ASSERT_TRUE(value == below || (value == above && below != exact)) << value << " for " << exact;
        ups += value == above;
      }
      // Five standard deviations of the number of those that went up.
      EXPECT_NEAR(ups / copies, part, 5 * std::sqrt(part * (1 - part) / copies)) << exact;
    }
}

TEST_P(OptimizerTest, BitsOfMomentsInBf16DoNotDependOnWhereAShardBegins) {
  const std::int64_t n = 9000;
  const Array weight = random_array({n}, 1), gradient = random_array({n}, 2);
  const AdamW settings{.lr = 0.01, .step = 2};
  Device device = make_device(GetParam());
  const auto whole_shard = [&] {
    AdamWShard shard = make_shard(device, weight, DType::bf16);
    shard.gradient = to_device(device, gradient);
    shard.random = Random(7, Purpose::stochastic_rounding, 3);
    return shard;
  };
  const AdamWShard whole = whole_shard();
  step_once(device, settings, whole);
  for (const std::int64_t border : {4096, 4097, 4098, 1}) {
    const AdamWShard same = whole_shard();
    std::vector<AdamWShard> parts(2, same);
    for (AdamWShard& part : parts) {
      const bool is_first = &part == &parts[0];
      const std::int64_t begin = is_first ? 0 : border, elements = is_first ? border : n - border;
      for (Tensor* tensor : {&part.gradient, &part.weight, &part.moment1, &part.moment2})
        *tensor = tensor->slice(begin, {elements});
      part.first = begin;
    }
    adamw(device, settings, parts);
    EXPECT_EQ(to_host(device, same.moment1).values, to_host(device, whole.moment1).values) << border;
    EXPECT_EQ(to_host(device, same.moment2).values, to_host(device, whole.moment2).values) << border;
  }
  AdamWShard other = whole_shard();
  other.random = Random(7, Purpose::stochastic_rounding, 4);
  step_once(device, settings, other);
  EXPECT_NE(to_host(device, other.moment1).values, to_host(device, whole.moment1).values);
  EXPECT_NE(to_host(device, other.moment2).values, to_host(device, whole.moment2).values);
}

// More pieces than pass through the device at once, and a last one that is not whole.
TEST_P(OptimizerTest, MomentsOnTheHostHaveTheBitsOfThoseOnTheDevice) {
  const Shape small = {70000}, large = {4'500'004};
  for (const DType moments : {DType::f32, DType::bf16}) {
    Device device = make_device(GetParam());
    std::vector<AdamWShard> here, there;
    for (const Shape& shape : {small, large}) {
      here.push_back(make_shard(device, random_array(shape, 1), moments));
      here.back().gradient = to_device(device, random_array(shape, 2));
      AdamWShard& shard = there.emplace_back(here.back());
      shard.weight = to_device(device, random_array(shape, 1));
      shard.moment1 = device.zeros_on_host(shape, moments);
      shard.moment2 = device.zeros_on_host(shape, moments);
      shard.moments_on_host = true;
    }
    for (const std::vector<AdamWShard>* shards : {&here, &there})
      for (int step = 1; step <= 2; ++step) adamw(device, {.lr = 0.01, .step = step}, *shards);
    for (std::size_t i = 0; i < here.size(); ++i)
      for (std::size_t j = 0; j < 3; ++j)
        EXPECT_TRUE(to_host(device, state_of(here[i])[j]).values == to_host(device, state_of(there[i])[j]).values)
            << "shard " << i << ", tensor " << j;
  }
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
