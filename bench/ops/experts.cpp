#include "mtp/ops/experts.h"

#include <algorithm>

#include "cases.h"
#include "mtp/ops/flops.h"

namespace mtp::bench {

namespace {

/// The products with `gate_up_proj` of all experts, whose pairs are spread evenly.
struct Products {
  Products(Device& on, const Sizes& sizes)
      : device(on),
        type(sizes.type),
        experts(sizes.experts),
        count(sizes.rows * sizes.base.top_k_experts),
        in(sizes.base.hidden_size),
        out(2 * sizes.base.moe_intermediate_size) {
    std::vector<std::int64_t> chosen;
    for (std::int64_t t = 0; t < sizes.rows; ++t) {
      std::vector<std::int64_t> own;
      for (std::int64_t k = 0; k < sizes.base.top_k_experts; ++k)
        own.push_back((t + k * experts / sizes.base.top_k_experts) % experts);
      std::ranges::sort(own);
      chosen.insert(chosen.end(), own.begin(), own.end());
    }
    expert_of = chosen;
    std::ranges::sort(expert_of);
    pairs = {device.empty({count}, DType::i64), device.empty({sizes.rows, sizes.base.top_k_experts}, DType::i64),
             device.empty({experts + 1}, DType::i64)};
    ops::sort_by_expert(device, device.from_host(chosen).view(pairs.places.shape()), pairs);
  }

  Tensor rows(std::int64_t width, unsigned seed) const { return random_tensor(device, {count, width}, seed, 1, type); }
  Tensor weights() const { return random_tensor(device, {experts, out, in}, 2, 1, type); }
  /// The matrix of the expert of a pair.
  Tensor matrix_of(const Tensor& w, std::int64_t pair) const { return w.slice(expert_of[pair] * out * in, {out, in}); }
  double flops() const { return ops::product_flops(count, in, out); }

  Device& device;
  DType type;
  std::int64_t experts, count, in, out;
  std::vector<std::int64_t> expert_of;  // of each pair
  ops::ExpertPairs pairs;
};

Work forward(Device& device, const Sizes& sizes) {
  const Products p(device, sizes);
  const Tensor x = p.rows(p.in, 1), w = p.weights(), y = device.empty({p.count, p.out}, p.type);
  return {.run = [=, &device] { ops::expert_linear_forward(device, p.pairs, x, w, y); },
          .check =
              [=, &device] {
                expect_elements(device, "y", y, [&](std::int64_t i, std::int64_t j) {
                  return dot(row(device, x, i), row(device, p.matrix_of(w, i), j));
                });
              },
          .bytes = bytes_of({x, w, y}),
          .flops = p.flops(),
          .flops_type = p.type};
}

Work backward_input(Device& device, const Sizes& sizes) {
  const Products p(device, sizes);
  const Tensor dy = p.rows(p.out, 1), w = p.weights(), dx = device.empty({p.count, p.in}, p.type);
  return {.run = [=, &device] { ops::expert_linear_backward_input(device, p.pairs, dy, w, dx); },
          .check =
              [=, &device] {
                expect_elements(device, "dx", dx, [&](std::int64_t i, std::int64_t j) {
                  const Tensor matrix = p.matrix_of(w, i);
                  Values column;
                  for (std::int64_t o = 0; o < p.out; ++o) column.push_back(part(device, matrix, o * p.in + j, 1)[0]);
                  return dot(row(device, dy, i), column);
                });
              },
          .bytes = bytes_of({dy, w, dx}),
          .flops = p.flops(),
          .flops_type = p.type};
}

Work backward_weight(Device& device, const Sizes& sizes) {
  const Products p(device, sizes);
  const Tensor dy = p.rows(p.out, 1), x = p.rows(p.in, 2), dw = device.zeros({p.experts, p.out, p.in});
  const auto check = [=, &device] {
    const Tensor as_rows = dw.view({p.experts * p.out, p.in});
    expect_elements(device, "dw", as_rows, [&](std::int64_t i, std::int64_t j) {
      double sum = 0;
      for (std::int64_t pair = 0; pair < p.count; ++pair)
        if (p.expert_of[pair] == i / p.out)
          sum += part(device, dy, pair * p.out + i % p.out, 1)[0] * part(device, x, pair * p.in + j, 1)[0];
      return sum;
    });
  };
  return {.run = [=, &device] { ops::expert_linear_backward_weight(device, p.pairs, dy, x, dw); },
          .check = check,
          .bytes = bytes_of({dy, x, dw, dw}),
          .flops = p.flops(),
          .flops_type = p.type};
}

bool has_experts(const Sizes& sizes) { return sizes.base.has_experts(); }

}  // namespace

std::vector<Case> expert_cases() {
  return {{"expert_linear_forward", "", forward, has_experts},
          {"expert_linear_backward_input", "", backward_input, has_experts},
          {"expert_linear_backward_weight", "", backward_weight, has_experts}};
}

}  // namespace mtp::bench
