#include "mtp/ops/optimizer.h"

#include <cmath>

#include "cases.h"

namespace mtp::bench {

namespace {

// On the weight of an MLP's up projection.
std::int64_t elements(const Sizes& sizes) { return sizes.base.hidden_size * sizes.base.intermediate_size; }

/// In bf16 runs it writes the weights that are computed with too.
Work adamw(Device& device, const Sizes& sizes) {
  const ops::AdamW step{.lr = 0.01, .weight_decay = 0.1, .gradient_factor = 0.5f};
  const Shape shape{elements(sizes)};
  const Tensor gradient = random_tensor(device, shape, 1), weight = random_tensor(device, shape, 2),
               moment1 = device.zeros(shape), moment2 = device.zeros(shape);
  const Tensor rounded = is_fp32(sizes) ? Tensor() : device.empty(shape, sizes.type);
  const std::int64_t checked = 1000;
  const Values before = part(device, weight, shape[0] - checked, checked);
  const auto check = [=, &device] {
    const Values g = part(device, gradient, shape[0] - checked, checked);
    Values expected;
    for (std::size_t i = 0; i < g.size(); ++i) {
      const double scaled = step.gradient_factor * g[i];  // in the first step the moments' corrections leave g and g²
      expected.push_back(before[i] * (1 - step.lr * step.weight_decay) -
                         step.lr * scaled / (std::abs(scaled) + step.eps));
    }
    expect_close("weight", part(device, weight, shape[0] - checked, checked), expected);
    if (rounded.empty()) return;
    expect_close("rounded weight", part(device, rounded, shape[0] - checked, checked), expected, {rounded.dtype()});
  };
  const ops::AdamWShard shard{
      .gradient = gradient, .weight = weight, .moment1 = moment1, .moment2 = moment2, .rounded_weight = rounded};
  return {.run =
              [=, &device] {
                ops::adamw(device, step, {&shard, 1});
              },
          .check = check,
          .bytes = bytes_of({gradient, weight, moment1, moment2, weight, moment1, moment2}) +
                   (rounded.empty() ? 0 : bytes_of({rounded}))};
}

Work sum_of_squares(Device& device, const Sizes& sizes) {
  constexpr std::int64_t block = 4096;
  const Tensor gradient = random_tensor(device, {elements(sizes) / block, block}, 1),
               sums = device.empty({gradient.size(0)}, DType::f64);
  const auto check = [=, &device] {
    Values found(static_cast<std::size_t>(sums.elements()));
    device.to_host(sums, found);
    for (const std::int64_t i : sample(sums.elements())) {
      const Values g = row(device, gradient, i);
      expect_close("sums", {found[i]}, {dot(g, g)});
    }
  };
  return {.run = [=, &device] { ops::sum_of_squares(device, gradient, block, sums); },
          .check = check,
          .bytes = bytes_of({gradient, sums})};
}

}  // namespace

std::vector<Case> optimizer_cases() { return {{"adamw", "", adamw}, {"sum_of_squares", "", sum_of_squares, is_fp32}}; }

}  // namespace mtp::bench
