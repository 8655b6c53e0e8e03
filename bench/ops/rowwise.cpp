#include "mtp/ops/rowwise.h"
#include "mtp/ops/flops.h"

#include <cmath>
#include <numeric>

#include "heads.h"

namespace mtp::bench {

namespace {

// What one forward of decoding verifies: a token and its drafts.
constexpr std::int64_t rows = 5;

Work linear(Device& device, const Sizes& s) {
  const std::int64_t in = s.base.hidden_size, out = s.base.intermediate_size;
  const Tensor x = random_tensor(device, {rows, in}, 1), w = random_tensor(device, {out, in}, 2),
               y = device.empty({rows, out});
  const auto check = [=, &device] {
    expect_elements(device, "y", y,
                    [&](std::int64_t i, std::int64_t j) { return dot(row(device, x, i), row(device, w, j)); });
  };
  return {.run = [=, &device] { ops::rowwise_linear(device, x, {w}, {y}); },
          .check = check,
          .bytes = bytes_of({x, w, y}),
          .flops = ops::product_flops(rows, in, out)};
}

Work choice(Device& device, const Sizes& s) {
  const Tensor x = random_tensor(device, {rows, s.base.hidden_size}, 1),
               w = random_tensor(device, {s.vocabulary, s.base.hidden_size}, 2),
               choices = device.empty({rows}, DType::i64);
  const auto check = [=, &device] {
    expect_choices(device, choices, logits(device, rows_of(device, x, sample(rows)), w, 0));
  };
  return {.run = [=, &device] { ops::rowwise_choice(device, x, w, -1, choices); },
          .check = check,
          .bytes = bytes_of({x, w, choices}),
          .flops = ops::product_flops(rows, s.base.hidden_size, s.vocabulary)};
}

/// The last rows of a text over all keys so far.
Work attention(Device& device, const Sizes& s) {
  const hf::LayerShape& layer = *s.base.layer_of(hf::LayerType::full);
  const std::int64_t heads = s.base.num_attention_heads, first = s.length - rows;
  const Shape queries{rows, heads, layer.head_dim}, keys{1, s.length, layer.kv_heads, layer.head_dim};
  const float scale = 2 / std::sqrt(std::sqrt(static_cast<float>(layer.head_dim)));  // scores of order one
  const Tensor q = random_tensor(device, queries, 1, scale), k = random_tensor(device, keys, 2, scale),
               v = random_tensor(device, keys, 3), out = device.empty(queries);
  std::vector<std::int64_t> positions(rows);
  std::iota(positions.begin(), positions.end(), first);
  const ops::RowPlaces places{.positions = device.from_host(positions), .texts = device.zeros({rows}, DType::i64)};
  const auto check = [=, &device] {
    expect_rows(device, "out", out, [&](std::int64_t index) {
      const std::int64_t group = index % heads * layer.kv_heads / heads;
      Values sum(static_cast<std::size_t>(layer.head_dim));
      double total = 0;
      for (std::int64_t j = 0; j <= first + index / heads; ++j) {
        const double p = std::exp(dot(row(device, q, index), row(device, k, j * layer.kv_heads + group)));
        const Values value = row(device, v, j * layer.kv_heads + group);
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += p * value[i];
        total += p;
      }
      for (double& element : sum) element /= total;
      return sum;
    });
  };
  return {.run = [=, &device] { ops::rowwise_attention(device, {}, places, q, k, v, out); },
          .check = check,
          .bytes = bytes_of({q, k, v, out}),
          .flops = 4.0 * static_cast<double>(q.elements()) * static_cast<double>(s.length)};
}

}  // namespace

std::vector<Case> rowwise_cases() {
  return {{"rowwise_linear", "up_proj", linear, is_fp32},
          {"rowwise_choice", "base", choice, is_fp32},
          {"rowwise_attention", "full", attention, is_fp32}};
}

}  // namespace mtp::bench
