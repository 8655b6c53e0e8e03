#include "mtp/ops/elementwise.h"

#include <cmath>
#include <numbers>

#include "mtp/tensor/bfloat16.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

Array gated_gelu_reference(const std::vector<Array>& inputs) {
  Array y(inputs[0].shape);
  for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] = gelu(inputs[0].values[i]) * inputs[1].values[i];
  return y;
}

Operation gated_gelu(const std::string& name, const Shape& shape, bool with_gate, bool with_up) {
  return {.name = name,
          .inputs = {random_array(shape, 1, 4), random_array(shape, 2)},
          .output_gradient = random_array(shape, 3),
          .reference = gated_gelu_reference,
          .run = [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
            const Tensor &gate = inputs[0], &up = inputs[1];
            const Tensor y = to_write(device, gate);
            gated_gelu_forward(device, gate, up, y);
            const Tensor dgate = with_gate ? to_write(device, gate) : Tensor();
            const Tensor dup = with_up ? to_write(device, up) : Tensor();
            gated_gelu_backward(device, dy, gate, up, dgate, dup);
            return Result{y, {dgate, dup}};
          }};
}

INSTANTIATE_TEST_SUITE_P(
    GatedGelu, OperationTest,
    on_every_device({gated_gelu("small", {3, 7}, true, true), gated_gelu("large", {150, 300}, true, true),
                     gated_gelu("gate_only", {3, 7}, true, false), gated_gelu("up_only", {3, 7}, false, true),
                     with_stored_values(gated_gelu("", {4, 9}, true, true), "gated_gelu")}),
    operation_name);

Operation concatenation(const std::string& name, std::int64_t rows, std::int64_t width_a, std::int64_t width_b,
                        bool with_a, bool with_b) {
  return {.name = name,
          .inputs = {random_array({rows, width_a}, 1), random_array({rows, width_b}, 2)},
          .output_gradient = random_array({rows, width_a + width_b}, 3),
          .reference =
              [](const std::vector<Array>& inputs) {
                const Array &a = inputs[0], &b = inputs[1];
                Array y({a.size(0), a.size(1) + b.size(1)});
                for (std::int64_t t = 0; t < y.size(0); ++t)
                  for (std::int64_t i = 0; i < y.size(1); ++i) y(t, i) = i < a.size(1) ? a(t, i) : b(t, i - a.size(1));
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy);
                concat_columns(device, inputs[0], inputs[1], y);
                const Tensor da = with_a ? to_write(device, inputs[0]) : Tensor();
                const Tensor db = with_b ? to_write(device, inputs[1]) : Tensor();
                split_columns(device, dy, da, db);
                return Result{y, {da, db}};
              }};
}

INSTANTIATE_TEST_SUITE_P(Columns, OperationTest,
                         on_every_device({concatenation("both", 150, 300, 200, true, true),
                                          concatenation("first_only", 5, 3, 4, true, false),
                                          concatenation("second_only", 5, 3, 4, false, true)}),
                         operation_name);

Operation columns(const std::string& name, std::int64_t rows, std::int64_t width, std::int64_t begin,
                  std::int64_t count) {
  return {.name = name,
          .inputs = {random_array({rows, width}, 1)},
          .output_gradient = random_array({rows, count}, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y({rows, count});
                for (std::int64_t t = 0; t < rows; ++t)
                  for (std::int64_t i = 0; i < count; ++i) y(t, i) = inputs[0](t, begin + i);
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_add_to(device, inputs[0]);
                copy_columns(device, inputs[0], begin, y);
                add_columns(device, dy, begin, dx);
                return Result{y, {dx}};
              },
          .added = {0}};
}

INSTANTIATE_TEST_SUITE_P(SomeColumns, OperationTest,
                         on_every_device({columns("first", 5, 9, 0, 3), columns("last", 5, 9, 5, 4),
                                          columns("all", 5, 9, 0, 9), columns("many", 200, 500, 128, 256)}),
                         operation_name);

/// What has no backward of its own: y computed by `apply` from a and b, which also is what y held before.
struct Arithmetic {
  std::string name;
  double (*expected)(double a, double b);
  void (*apply)(Device&, const Tensor& a, const Tensor& b, const Tensor& y);
};

const std::vector<Arithmetic> arithmetic = {
    {"add", [](double a, double b) { return a + b; }, add},
    {"add_scaled", [](double a, double b) { return 0.75 * (a + b); },
     [](Device& device, const Tensor& a, const Tensor& b, const Tensor& y) { add_scaled(device, a, b, 0.75f, y); }},
    {"scale", [](double a, double) { return -1.5 * a; },
     [](Device& device, const Tensor& a, const Tensor&, const Tensor& y) { scale(device, a, -1.5f, y); }},
    {"accumulate", [](double a, double b) { return a + b; },
     [](Device& device, const Tensor& a, const Tensor&, const Tensor& y) { accumulate(device, a, y); }}};

class ArithmeticTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, ArithmeticTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(ArithmeticTest, EveryElementIsTheExpectedOne) {
  const Array a = random_array({130, 300}, 1), b = random_array({130, 300}, 2);  // more than two tasks
  for (const Arithmetic& operation : arithmetic)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Device device = make_device(GetParam());
      const Tensor y = to_device(device, b, dtype);
      operation.apply(device, to_device(device, a, dtype), to_device(device, b, dtype), y);
      Array expected(a.shape);
      for (std::size_t i = 0; i < a.values.size(); ++i)
        expected.values[i] = operation.expected(rounded_to(dtype, a.values[i]), rounded_to(dtype, b.values[i]));
      expect_close(operation.name, to_host(device, y), expected, tolerance_of(dtype));
    }
}

TEST_P(ArithmeticTest, BitsDoNotDependOnThreads) {
  for (const Arithmetic& operation : arithmetic)
    expect_same_bits_on_any_threads(GetParam(), [&](Device& device) {
      const Tensor a = to_device(device, random_array({130, 300}, 1)),
                   y = to_device(device, random_array({130, 300}, 2));
      operation.apply(device, a, to_device(device, random_array({130, 300}, 2)), y);
      return std::vector{y};
    });
}

}  // namespace
}  // namespace mtp::ops::test
