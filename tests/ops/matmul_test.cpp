#include "mtp/ops/matmul.h"

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
                const Tensor y = to_write(device, dy.shape());
                linear_forward(device, x, w, y);
                const Tensor dx = to_write(device, x.shape()), dw = to_add_to(device, w.shape());
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

}  // namespace
}  // namespace mtp::ops::test
