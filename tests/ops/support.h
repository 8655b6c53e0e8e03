#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "mtp/tensor/device.h"

namespace mtp::ops::test {

/// Every test runs on every kind of device there is.
using DeviceKind = Device::Kind;
std::vector<DeviceKind> device_kinds();
/// A CPU with this many threads, or the GPU of this number where there are several: what is asked of any number of
/// threads is also asked of any of several GPUs, and of one GPU again and again.
Device make_device(DeviceKind kind, int threads = 2);
/// Ends a test that this machine has no device for.
void skip_without(DeviceKind kind);

/// Host values in double precision: what the plain references compute with.
struct Array {
  Shape shape;
  std::vector<double> values;

  Array() = default;
  explicit Array(Shape of) : shape(std::move(of)), values(static_cast<std::size_t>(num_elements(shape))) {}
  Array(Shape of, std::vector<double> all) : shape(std::move(of)), values(std::move(all)) {}

  std::int64_t size(std::size_t i) const { return shape[i]; }
  double& operator()(std::int64_t i, std::int64_t j) { return values[i * shape.back() + j]; }
  double operator()(std::int64_t i, std::int64_t j) const { return values[i * shape.back() + j]; }
};

/// Uniform in ±scale, exact in fp32, the same in every run.
Array random_array(Shape shape, unsigned seed, double scale = 1);

Tensor to_device(Device& device, const Array& array, DType dtype = DType::f32);
Array to_host(const Device& device, const Tensor& tensor);

/// Space for a result that an operation writes (full of NaN before) or adds to (full of ones), of the shape and type of
/// a tensor, or fp32.
Tensor to_write(Device& device, const Tensor& like);
Tensor to_write(Device& device, const Shape& shape, DType dtype = DType::f32);
Tensor to_add_to(Device& device, const Tensor& like);
Tensor to_add_to(Device& device, const Shape& shape, DType dtype = DType::f32);

/// |actual - expected| ≤ tolerance · the largest |expected| (or 0.1 where all is smaller: inputs are of order one and
/// may cancel). The message names the worst element. The tolerance of 1e-5 is some 170 roundings of fp32, which sums of
/// up to a few thousand terms stay well below.
void expect_close(const std::string& what, const Array& actual, const Array& expected, double tolerance = 1e-5);

/// 1e-5, or for results in bf16 two roundings of it: that of the result, and that of what an operation keeps in bf16 on
/// the way to it (attention's output, sine and cosine of a rotation).
double tolerance_of(DType dtype);

/// What an operation computed; a gradient that is left out is empty.
struct Result {
  Tensor output;
  std::vector<Tensor> gradients;
};

/// One operation on one set of inputs, with all that is needed to check it.
struct Operation {
  std::string name;
  std::vector<Array> inputs;
  /// The gradients are those of Σ output_gradient · output.
  Array output_gradient;
  /// Slow and plain, in double precision.
  std::function<Array(const std::vector<Array>& inputs)> reference;
  std::function<Result(Device&, const std::vector<Tensor>& inputs, const Tensor& output_gradient)> run;
  /// The inputs whose gradient `run` gives as `to_add_to` plus the gradient.
  std::vector<std::size_t> added = {};
  /// On a GPU, a gradient within is rounded to the type of the inputs: so exact are then also gradients in fp32.
  bool rounds_within_on_gpus = false;
  /// The entry of reference_values.json whose inputs these are, if any.
  std::string stored = {};
};

void PrintTo(const Operation& operation, std::ostream* out);

/// Entry of reference_values.json.
const nlohmann::json& stored(const std::string& name);
Array stored_array(const nlohmann::json& array);
/// Takes inputs and output gradient from the entry and compares with its results too.
Operation with_stored_values(Operation operation, const std::string& name);

/// For every operation, in fp32 and in bf16: its values are the reference's, its gradients those of finite differences
/// of the reference, both are what PyTorch computed where that is stored, and the bits do not depend on the number of
/// threads. Instantiate it with `on_every_device(operations)`.
class OperationTest : public testing::TestWithParam<std::tuple<DeviceKind, DType, Operation>> {
 protected:
  OperationTest();
  void SetUp() override { skip_without(kind()); }
  DeviceKind kind() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  /// With inputs that the type can hold.
  const Operation& operation() const { return operation_; }
  Result run(Device& device) const;

 private:
  Operation operation_;
};

inline auto on_every_device(std::vector<Operation> operations) {
  return testing::Combine(testing::ValuesIn(device_kinds()), testing::Values(DType::f32, DType::bf16),
                          testing::ValuesIn(std::move(operations)));
}
std::string operation_name(const testing::TestParamInfo<OperationTest::ParamType>& info);

/// For what has no gradient or no output of its own.
class DeviceTest : public testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override { skip_without(GetParam()); }
};
std::string device_name(const testing::TestParamInfo<DeviceKind>& info);

/// `run` gives the same bits on 1, 2 and 3 threads.
void expect_same_bits_on_any_threads(DeviceKind kind, const std::function<std::vector<Tensor>(Device&)>& run);

}  // namespace mtp::ops::test
