// The harness of support.h.

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "mtp/tensor/bfloat16.h"
#include "mtp/tensor/cuda_devices.h"
#include "ops/support.h"
#include "support/source_dir.h"

namespace mtp::ops::test {

std::vector<DeviceKind> device_kinds() { return {DeviceKind::cpu, DeviceKind::cuda}; }

Device make_device(DeviceKind kind, int threads) {
  if (kind == DeviceKind::cpu) return Device(threads);
  return Device::cuda((threads - 1) % find_cuda_devices().count);
}

void skip_without(DeviceKind kind) {
  if (kind == DeviceKind::cuda && find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
}

Array random_array(Shape shape, unsigned seed, double scale) {
  Array array(std::move(shape));
  std::mt19937 bits(seed);
  for (double& value : array.values) value = static_cast<float>(scale * (2.0 * bits() / 4294967295.0 - 1.0));
  return array;
}

Tensor to_device(Device& device, const Array& array, DType dtype) {
  return device.from_host(std::vector<float>(array.values.begin(), array.values.end()), array.shape, dtype);
}

Array to_host(const Device& device, const Tensor& tensor) {
  Array array(tensor.shape());
  if (tensor.dtype() == DType::f64) {
    device.to_host(tensor, array.values);
  } else {
    std::vector<float> values(array.values.size());
    device.to_host(tensor, values);
    array.values.assign(values.begin(), values.end());
  }
  return array;
}

namespace {

Tensor filled(Device& device, const Shape& shape, DType dtype, float value) {
  return device.from_host(std::vector<float>(num_elements(shape), value), shape, dtype);
}

Array rounded(Array array, DType dtype) {
  for (double& value : array.values) value = rounded_to(dtype, static_cast<float>(value));
  return array;
}

bool adds_to(const Operation& operation, std::size_t input) {
  return std::find(operation.added.begin(), operation.added.end(), input) != operation.added.end();
}

/// Element `at` of the gradient of an input by central differences: in double precision, a step of 1e-4 leaves an error
/// of about 1e-8.
double finite_difference(const Operation& operation, std::size_t input, std::size_t at) {
  constexpr double step = 1e-4;
  const auto loss = [&](double shift) {
    std::vector<Array> inputs = operation.inputs;
    inputs[input].values[at] += shift;
    const Array output = operation.reference(inputs);
    double sum = 0;
    for (std::size_t i = 0; i < output.values.size(); ++i)
      sum += output.values[i] * operation.output_gradient.values[i];
    return sum;
  };
  return (loss(step) - loss(-step)) / (2 * step);
}

/// At most 40 elements, spread without a pattern that rows or heads might share.
std::vector<std::size_t> some_elements(std::size_t count) {
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < std::min<std::size_t>(count, 40); ++i)
    chosen.push_back(count <= 40 ? i : i * 2654435761u % count);
  return chosen;
}

}  // namespace

Tensor to_write(Device& device, const Shape& shape, DType dtype) {
  return filled(device, shape, dtype, std::numeric_limits<float>::quiet_NaN());
}
Tensor to_write(Device& device, const Tensor& like) { return to_write(device, like.shape(), like.dtype()); }

Tensor to_add_to(Device& device, const Shape& shape, DType dtype) { return filled(device, shape, dtype, 1); }
Tensor to_add_to(Device& device, const Tensor& like) { return to_add_to(device, like.shape(), like.dtype()); }

double tolerance_of(DType dtype) { return dtype == DType::bf16 ? 2 * std::ldexp(1.0, -8) : 1e-5; }

OperationTest::OperationTest() : operation_(std::get<2>(GetParam())) {
  for (Array& input : operation_.inputs) input = rounded(input, dtype());
  operation_.output_gradient = rounded(operation_.output_gradient, dtype());
}

Result OperationTest::run(Device& device) const {
  std::vector<Tensor> inputs;
  for (const Array& input : operation_.inputs) inputs.push_back(to_device(device, input, dtype()));
  return operation_.run(device, inputs, to_device(device, operation_.output_gradient, dtype()));
}

void expect_close(const std::string& what, const Array& actual, const Array& expected, double tolerance) {
  ASSERT_EQ(num_elements(actual.shape), num_elements(expected.shape)) << what;
  double largest = 0.1, worst = -1;
  std::size_t worst_at = 0;
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    largest = std::max(largest, std::abs(expected.values[i]));
    const double difference = std::abs(actual.values[i] - expected.values[i]);
    if (!(difference <= worst)) worst = difference, worst_at = i;  // a NaN is the worst of all
    if (std::isnan(worst)) break;
  }
  EXPECT_TRUE(worst <= tolerance * largest)
      << what << "[" << worst_at << "] is " << actual.values[worst_at] << ", not " << expected.values[worst_at]
      << ": off by " << worst << " where up to " << tolerance * largest << " is rounding";
}

void PrintTo(const Operation& operation, std::ostream* out) { *out << operation.name; }

const nlohmann::json& stored(const std::string& name) {
  static const nlohmann::json entries =
      nlohmann::json::parse(std::ifstream(mtp::test::source_dir() / "tests/ops/reference_values.json"));
  return entries.at(name);
}

Array stored_array(const nlohmann::json& array) {
  return {array.at("shape").get<Shape>(), array.at("values").get<std::vector<double>>()};
}

Operation with_stored_values(Operation operation, const std::string& name) {
  const nlohmann::json& entry = stored(name);
  operation.name = "stored_" + name;
  operation.stored = name;
  operation.output_gradient = stored_array(entry.at("output_gradient"));
  for (std::size_t i = 0; i < operation.inputs.size(); ++i)
    operation.inputs[i] = stored_array(entry.at("inputs").at(i));
  return operation;
}

std::string operation_name(const testing::TestParamInfo<OperationTest::ParamType>& info) {
  return fmt::format("{}_{}_{}", device_name({std::get<0>(info.param), info.index}), to_string(std::get<1>(info.param)),
                     std::get<2>(info.param).name);
}

std::string device_name(const testing::TestParamInfo<DeviceKind>& info) {
  return info.param == DeviceKind::cpu ? "cpu" : "cuda";
}

void expect_same_bits_on_any_threads(DeviceKind kind, const std::function<std::vector<Tensor>(Device&)>& run) {
  std::vector<Array> first;
  for (const int threads : {1, 2, 3}) {
    Device device = make_device(kind, threads);
    std::vector<Array> results;
    for (const Tensor& tensor : run(device))
      if (!tensor.empty()) results.push_back(to_host(device, tensor));
    if (threads == 1) first = results;
    ASSERT_EQ(results.size(), first.size());
    for (std::size_t i = 0; i < results.size(); ++i)
      EXPECT_EQ(std::memcmp(results[i].values.data(), first[i].values.data(), first[i].values.size() * sizeof(double)),
                0)
          << "result " << i << " on " << threads << " threads";
  }
}

TEST_P(OperationTest, ValuesAreThoseOfThePlainReference) {
  Device device = make_device(kind());
  const Tensor output = run(device).output;
  expect_close("output", to_host(device, output), operation().reference(operation().inputs),
               tolerance_of(output.dtype()));
}

TEST_P(OperationTest, GradientsAreFiniteDifferencesOfTheReference) {
  Device device = make_device(kind());
  const std::vector<Tensor> gradients = run(device).gradients;
  const bool rounds_within = kind() == DeviceKind::cuda && operation().rounds_within_on_gpus;
  for (std::size_t input = 0; input < gradients.size(); ++input) {
    if (gradients[input].empty()) continue;
    const Array gradient = to_host(device, gradients[input]);
    ASSERT_EQ(gradient.shape, operation().inputs[input].shape) << "input " << input;
    Array actual, expected;
    for (const std::size_t at : some_elements(gradient.values.size())) {
      actual.values.push_back(gradient.values[at] - (adds_to(operation(), input) ? 1 : 0));
      expected.values.push_back(finite_difference(operation(), input, at));
    }
    actual.shape = expected.shape = {static_cast<std::int64_t>(actual.values.size())};
    // Here the largest of a few elements is the scale, not the largest of all: the tolerance is wider than for values.
    expect_close("gradient of input " + std::to_string(input) + " at some", actual, expected,
                 3 * tolerance_of(rounds_within ? dtype() : gradients[input].dtype()));
  }
}

TEST_P(OperationTest, ResultsAreThosePyTorchStored) {
  if (operation().stored.empty() || dtype() != DType::f32) return;
  Device device = make_device(kind());
  const Result result = run(device);
  const nlohmann::json& entry = stored(operation().stored);
  expect_close("output", to_host(device, result.output), stored_array(entry.at("output")));
  for (std::size_t input = 0; input < result.gradients.size(); ++input) {
    ASSERT_EQ(result.gradients[input].empty(), entry.at("gradients").at(input).is_null()) << "input " << input;
    if (result.gradients[input].empty()) continue;
    Array expected = stored_array(entry.at("gradients").at(input));
    for (double& value : expected.values) value += adds_to(operation(), input) ? 1 : 0;
    expect_close("gradient of input " + std::to_string(input), to_host(device, result.gradients[input]), expected);
  }
}

TEST_P(OperationTest, BitsDoNotDependOnThreads) {
  expect_same_bits_on_any_threads(kind(), [&](Device& device) {
    Result result = run(device);
    std::vector<Tensor> all = std::move(result.gradients);
    all.push_back(result.output);
    return all;
  });
}

}  // namespace mtp::ops::test
