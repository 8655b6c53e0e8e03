#include "mtp/ops/attention.h"
#include "mtp/ops/flops.h"

#include <cmath>

#include "cases.h"

namespace mtp::bench {

namespace {

/// Inputs and results of attention over one sequence.
struct Attention {
  ops::AttentionMask mask;
  ops::Sequences sequences;
  Tensor q, k, v, out, lse;
  Tensor dout, dq, dk, dv;  // empty in the forward

  std::int64_t length() const { return q.size(0); }
  std::int64_t heads() const { return q.size(1); }
  std::int64_t heads_per_group() const { return q.size(1) / k.size(1); }

  /// FLOPs of so many products, each a number for a pair of a query and a key or a row's sum over pairs.
  double flops(int products) const {
    return 2.0 * products * ops::visible_pairs(mask, length()) * static_cast<double>(heads() * q.size(2));
  }
};

Attention attention(Device& device, const Sizes& sizes, hf::LayerType type) {
  const hf::LayerShape& layer = *sizes.base.layer_of(type);
  const std::int64_t length = sizes.length, heads = sizes.base.num_attention_heads;
  const Shape queries{length, heads, layer.head_dim}, keys{length, layer.kv_heads, layer.head_dim};
  const float scale = 2 / std::sqrt(std::sqrt(static_cast<float>(layer.head_dim)));  // scores of order one
  return {.mask = {.window = layer.is_sliding ? sizes.base.sliding_window : 0},
          .sequences = ops::Sequences({length}),
          .q = random_tensor(device, queries, 1, scale, sizes.type),
          .k = random_tensor(device, keys, 2, scale, sizes.type),
          .v = random_tensor(device, keys, 3, 1, sizes.type),
          .out = device.empty(queries, sizes.type),
          .lse = device.empty({heads, length}),
          .dout = {},
          .dq = {},
          .dk = {},
          .dv = {}};
}

/// The probabilities of query `t` of a head over the keys it sees, begin … end - 1.
struct Row {
  std::int64_t begin;
  Values probabilities;
};

Row probabilities(const Device& device, const Attention& a, std::int64_t t, std::int64_t head) {
  const Values q = row(device, a.q, t * a.heads() + head);
  Row result{a.mask.begin(t, a.length()), {}};
  double sum = 0;
  for (std::int64_t j = result.begin; j < a.mask.end(t, a.length()); ++j) {
    result.probabilities.push_back(std::exp(dot(q, row(device, a.k, j * a.k.size(1) + head / a.heads_per_group()))));
    sum += result.probabilities.back();
  }
  for (double& p : result.probabilities) p /= sum;
  return result;
}

void add_scaled(Values& sum, double factor, const Values& x) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += factor * x[i];
}

/// Gradients of the scores of query `t` of a head: p (dout · v - dout · out).
Row score_gradients(const Device& device, const Attention& a, std::int64_t t, std::int64_t head) {
  Row result = probabilities(device, a, t, head);
  const std::int64_t index = t * a.heads() + head;
  const Values dout = row(device, a.dout, index);
  const double mean = dot(dout, row(device, a.out, index));
  for (std::size_t i = 0; i < result.probabilities.size(); ++i) {
    const std::int64_t j = result.begin + static_cast<std::int64_t>(i);
    result.probabilities[i] *= dot(dout, row(device, a.v, j * a.v.size(1) + head / a.heads_per_group())) - mean;
  }
  return result;
}

/// Σ over the keys of query `t` of weight · their rows of `keys`.
Values weighted(const Device& device, const Attention& a, const Row& weights, const Tensor& keys, std::int64_t head) {
  Values sum(static_cast<std::size_t>(keys.size(2)));
  for (std::size_t i = 0; i < weights.probabilities.size(); ++i) {
    const std::int64_t j = weights.begin + static_cast<std::int64_t>(i);
    add_scaled(sum, weights.probabilities[i], row(device, keys, j * keys.size(1) + head / a.heads_per_group()));
  }
  return sum;
}

void check_forward(const Device& device, const Attention& a) {
  const auto expected = [&](std::int64_t index) {
    const std::int64_t head = index % a.heads();
    return weighted(device, a, probabilities(device, a, index / a.heads(), head), a.v, head);
  };
  expect_rows(device, "out", a.out, expected, a.q.dtype());
}

void check_backward(const Device& device, const Attention& a) {
  const DType type = a.q.dtype();
  const auto expected_dq = [&](std::int64_t index) {
    const std::int64_t head = index % a.heads();
    return weighted(device, a, score_gradients(device, a, index / a.heads(), head), a.k, head);
  };
  expect_rows(device, "dq", a.dq, expected_dq, type);
  // Of a key near the end, which few queries see.
  const std::int64_t key = a.length() - 2, group = a.k.size(1) - 1;
  Values dk(static_cast<std::size_t>(a.k.size(2))), dv(dk.size());
  for (std::int64_t t = key; t < a.length(); ++t)
    for (std::int64_t head = group * a.heads_per_group(); head < (group + 1) * a.heads_per_group(); ++head) {
      const Row p = probabilities(device, a, t, head), ds = score_gradients(device, a, t, head);
      add_scaled(dv, p.probabilities[key - p.begin], row(device, a.dout, t * a.heads() + head));
      add_scaled(dk, ds.probabilities[key - p.begin], row(device, a.q, t * a.heads() + head));
    }
  const std::int64_t index = key * a.k.size(1) + group;
  expect_close("dk", row(device, a.dk, index), dk, {type, type});
  expect_close("dv", row(device, a.dv, index), dv, {type, type});
}

Work forward(Device& device, const Sizes& sizes, hf::LayerType type) {
  const Attention a = attention(device, sizes, type);
  return {.run = [=, &device] { ops::attention_forward(device, a.mask, a.sequences, a.q, a.k, a.v, a.out, a.lse); },
          .check = [=, &device] { check_forward(device, a); },
          .bytes = bytes_of({a.q, a.k, a.v, a.out, a.lse}),
          .flops = a.flops(2),
          .flops_type = sizes.type};
}

/// Five products: the scores again, since they are not kept, dout vᵀ, and three gradients.
Work backward(Device& device, const Sizes& sizes, hf::LayerType type) {
  Attention a = attention(device, sizes, type);
  a.dout = random_tensor(device, a.q.shape(), 4, 1, sizes.type);
  a.dq = device.empty(a.q.shape(), sizes.type);
  a.dk = device.empty(a.k.shape(), sizes.type);
  a.dv = device.empty(a.k.shape(), sizes.type);
  ops::attention_forward(device, a.mask, a.sequences, a.q, a.k, a.v, a.out, a.lse);
  return {.run =
              [=, &device] {
                ops::attention_backward(device, a.mask, a.sequences, a.dout, a.q, a.k, a.v, a.out, a.lse, a.dq, a.dk,
                                        a.dv);
              },
          .check = [=, &device] { check_backward(device, a); },
          .bytes = bytes_of({a.dout, a.q, a.k, a.v, a.out, a.lse, a.dq, a.dk, a.dv}),
          .flops = a.flops(5),
          .flops_type = sizes.type};
}

}  // namespace

std::vector<Case> attention_cases() {
  std::vector<Case> cases;
  for (const hf::LayerType type : {hf::LayerType::sliding, hf::LayerType::full}) {
    const std::string variant = type == hf::LayerType::full ? "full" : "sliding";
    cases.push_back({"attention_forward", variant, [=](Device& d, const Sizes& s) { return forward(d, s, type); }});
    cases.push_back({"attention_backward", variant, [=](Device& d, const Sizes& s) { return backward(d, s, type); }});
  }
  return cases;
}

}  // namespace mtp::bench
