#include "mtp/ops/matmul.h"

#include "mtp/ops/elementwise.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

Array linear_reference(const std::vector<Array>& inputs) {
  const Array &x = inputs[0], &w = inputs[1];
  Array y({x.size(0), w.size(0)});
  for (std::int64_t t = 0; t < x.size(0); ++t)
    for (std::int64_t o = 0; o < w.size(0); ++o)
      for (std::int64_t i = 0; i < x.size(1); ++i) y(t, o) += x(t, i) * w(o, i);
  return y;
}

Operation linear(const std::string& name, std::int64_t rows, std::int64_t in, std::int64_t out) {
  return {.name = name,
          .inputs = {random_array({rows, in}, 1), random_array({out, in}, 2)},
          .output_gradient = random_array({rows, out}, 3),
          .reference = linear_reference,
          .run =
              [](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor &x = inputs[0], &w = inputs[1];
                const Tensor y = to_write(device, dy);
                linear_forward(device, x, w, y);
                const Tensor dx = to_write(device, x), dw = to_add_to(device, w.shape());
                linear_backward_input(device, dy, w, dx);
                linear_backward_weight(device, dy, x, dw);
                return Result{y, {dx, dw}};
              },
          .added = {1}};
}

// The large ones take several tiles of each product in each direction.
INSTANTIATE_TEST_SUITE_P(Linear, OperationTest,
                         on_every_device({linear("one_row", 1, 7, 3), linear("many_rows", 300, 20, 40),
                                          linear("many_outputs", 30, 40, 600), linear("many_inputs", 20, 600, 30),
                                          with_stored_values(linear("", 5, 12, 7), "linear")}),
                         operation_name);

class MatmulTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, MatmulTest, testing::ValuesIn(device_kinds()), device_name);

// Large matrices are converted part by part: these take several parts in every direction.
TEST_P(MatmulTest, ProductsOfBf16AreThoseOfItsNumbersInFp32) {
  const std::int64_t rows = 300, in = 17000, out = 600;
  Device device = make_device(GetParam());
  const auto rounded = [&](Shape shape, unsigned seed) {
    return to_device(device, random_array(std::move(shape), seed), DType::bf16);
  };
  const Tensor x = rounded({rows, in}, 1), w = rounded({out, in}, 2), dy = rounded({rows, out}, 3);
  const auto exact = [&](const Tensor& from) {
    Tensor to = device.empty(from.shape());
    convert(device, from, to);
    return to;
  };
  const Tensor x32 = exact(x), w32 = exact(w), dy32 = exact(dy);

  const Tensor y = to_write(device, dy), y32 = to_write(device, dy32);
  linear_forward(device, x, w, y);
  linear_forward(device, x32, w32, y32);
  expect_close("y", to_host(device, y), to_host(device, y32), tolerance_of(DType::bf16) / 2);

  const Tensor dx = to_write(device, x), dx32 = to_write(device, x32);
  linear_backward_input(device, dy, w, dx);
  linear_backward_input(device, dy32, w32, dx32);
  expect_close("dx", to_host(device, dx), to_host(device, dx32), tolerance_of(DType::bf16) / 2);

  const Tensor dw = to_add_to(device, w.shape()), dw32 = to_add_to(device, w32);
  linear_backward_weight(device, dy, x, dw);
  linear_backward_weight(device, dy32, x32, dw32);
  expect_close("dw", to_host(device, dw), to_host(device, dw32));
}

}  // namespace
}  // namespace mtp::ops::test
