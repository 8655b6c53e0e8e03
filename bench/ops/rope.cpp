#include "mtp/ops/rope.h"

#include <cmath>

#include "cases.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp::bench {

namespace {

using Operation = void (*)(Device&, const ops::Rope&, const ops::Sequences&, const Tensor& x, const Tensor& y);

Work work(Device& device, const Sizes& sizes, Operation operation, double sign) {
  const auto type = hf::LayerType::sliding;
  const std::int64_t heads = sizes.base.num_attention_heads, width = sizes.base.layer_of(type)->head_dim;
  const ops::Sequences sequences({sizes.rows});
  const ops::Rope rope{.inverse_frequencies = sizes.base.rope_inverse_frequencies(type)};
  const Tensor x = random_tensor(device, {sizes.rows, heads, width}, 1, 1, sizes.type),
               y = device.empty(x.shape(), sizes.type);
  const auto check = [=, &device] {
    expect_rows(device, "y", y, [&](std::int64_t i) {
      const Values in = row(device, x, i);
      Values expected(in.size());
      for (std::size_t j = 0, half = in.size() / 2; j < half; ++j) {
        const double angle = sign * static_cast<double>(static_cast<float>(i / heads) * rope.inverse_frequencies[j]);
        const double cosine = rounded_to(sizes.type, static_cast<float>(std::cos(angle))),
                     sine = rounded_to(sizes.type, static_cast<float>(std::sin(angle)));
        expected[j] = in[j] * cosine - in[j + half] * sine;
        expected[j + half] = in[j + half] * cosine + in[j] * sine;
      }
      return expected;
    });
  };
  return {.run = [=, &device] { operation(device, rope, sequences, x, y); }, .check = check, .bytes = bytes_of({x, y})};
}

}  // namespace

std::vector<Case> rope_cases() {
  return {{"rope_forward", "", [](Device& d, const Sizes& s) { return work(d, s, ops::rope_forward, 1); }},
          {"rope_backward", "", [](Device& d, const Sizes& s) { return work(d, s, ops::rope_backward, -1); }}};
}

}  // namespace mtp::bench
