#include "mtp/ops/matmul.h"
#include "mtp/ops/flops.h"

#include "cases.h"

namespace mtp::bench {

namespace {

/// A layer without bias.
struct Linear {
  DType type;
  std::int64_t rows, in, out;
  double flops() const { return ops::product_flops(rows, in, out); }
};

/// Column `index` of a matrix.
Values column(const Device& device, const Tensor& matrix, std::int64_t index) {
  Values values;
  for (std::int64_t i = 0; i < matrix.size(0); ++i)
    values.push_back(part(device, matrix, i * matrix.size(1) + index, 1)[0]);
  return values;
}

Work forward(Device& device, const Linear& linear) {
  const Tensor x = random_tensor(device, {linear.rows, linear.in}, 1, 1, linear.type),
               w = random_tensor(device, {linear.out, linear.in}, 2, 1, linear.type),
               y = device.empty({linear.rows, linear.out}, linear.type);
  return {.run = [=, &device] { ops::linear_forward(device, x, w, y); },
          .check =
              [=, &device] {
                expect_elements(device, "y", y, [&](std::int64_t i, std::int64_t j) {
                  return dot(row(device, x, i), row(device, w, j));
                });
              },
          .bytes = bytes_of({x, w, y}),
          .flops = linear.flops(),
          .flops_type = linear.type};
}

Work backward_input(Device& device, const Linear& linear) {
  const Tensor dy = random_tensor(device, {linear.rows, linear.out}, 1, 1, linear.type),
               w = random_tensor(device, {linear.out, linear.in}, 2, 1, linear.type),
               dx = device.empty({linear.rows, linear.in}, linear.type);
  return {.run = [=, &device] { ops::linear_backward_input(device, dy, w, dx); },
          .check =
              [=, &device] {
                expect_elements(device, "dx", dx, [&](std::int64_t i, std::int64_t j) {
                  return dot(row(device, dy, i), column(device, w, j));
                });
              },
          .bytes = bytes_of({dy, w, dx}),
          .flops = linear.flops(),
          .flops_type = linear.type};
}

Work backward_weight(Device& device, const Linear& linear) {
  const Tensor dy = random_tensor(device, {linear.rows, linear.out}, 1, 1, linear.type),
               x = random_tensor(device, {linear.rows, linear.in}, 2, 1, linear.type),
               dw = device.zeros({linear.out, linear.in});
  return {.run = [=, &device] { ops::linear_backward_weight(device, dy, x, dw); },
          .check =
              [=, &device] {
                expect_elements(device, "dw", dw, [&](std::int64_t i, std::int64_t j) {
                  return dot(column(device, dy, i), column(device, x, j));
                });
              },
          .bytes = bytes_of({dy, x, dw, dw}),
          .flops = linear.flops(),
          .flops_type = linear.type};
}

}  // namespace

std::vector<Case> matmul_cases() {
  struct Use {
    std::string name;
    std::function<Linear(const Sizes&)> shape;
    std::function<bool(const Sizes&)> exists = [](const Sizes&) { return true; };
  };
  const std::vector<Use> uses{
      {"q_proj",
       [](const Sizes& s) {
         const std::int64_t head_dim = s.base.layer_of(hf::LayerType::sliding)->head_dim;
         return Linear{s.type, s.rows, s.base.hidden_size, s.base.num_attention_heads * head_dim};
       }},
      {"up_proj",
       [](const Sizes& s) {
         return Linear{s.type, s.rows, s.base.hidden_size, s.base.intermediate_size};
       }},
      {"down_proj",
       [](const Sizes& s) {
         return Linear{s.type, s.rows, s.base.intermediate_size, s.base.hidden_size};
       }},
      {"pre_projection",
       [](const Sizes& s) {
         return Linear{s.type, s.rows, 2 * s.base.hidden_size, s.drafter.hidden_size};
       }},
      // As many rows and columns as all experts have together, to compare with expert_linear_….
      {"as_experts",
       [](const Sizes& s) {
         return Linear{s.type, s.rows * s.base.top_k_experts, s.base.hidden_size, 2 * s.base.moe_intermediate_size};
       },
       [](const Sizes& s) { return s.base.has_experts(); }}};
  std::vector<Case> cases;
  for (const Use& use : uses) {
    const auto shape = use.shape;
    cases.push_back(
        {"linear_forward", use.name, [=](Device& d, const Sizes& s) { return forward(d, shape(s)); }, use.exists});
    cases.push_back({"linear_backward_input", use.name,
                     [=](Device& d, const Sizes& s) { return backward_input(d, shape(s)); }, use.exists});
    cases.push_back({"linear_backward_weight", use.name,
                     [=](Device& d, const Sizes& s) { return backward_weight(d, shape(s)); }, use.exists});
  }
  return cases;
}

}  // namespace mtp::bench
