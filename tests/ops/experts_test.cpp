#include "mtp/ops/experts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/matmul.h"
#include "mtp/ops/norm.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

using Ids = std::vector<std::int64_t>;

Tensor as_fp32(Device& device, const Tensor& x) {
  Tensor y = device.empty(x.shape());
  convert(device, x, y);
  return y;
}

ExpertChoice choice_to_write(Device& device, std::int64_t rows, std::int64_t n) {
  return {device.empty({rows, n}, DType::i64), to_write(device, {rows, n}), to_write(device, {rows, n})};
}

/// Of chosen experts, n a row.
ExpertPairs pairs_of(Device& device, const Ids& chosen, std::int64_t n, std::int64_t experts) {
  const auto count = std::ssize(chosen);
  ExpertPairs pairs{device.empty({count}, DType::i64), device.empty({count / n, n}, DType::i64),
                    device.empty({experts + 1}, DType::i64)};
  sort_by_expert(device, device.from_host(chosen).view({count / n, n}), pairs);
  return pairs;
}

/// n of E experts, ascending, for each row; `unloved` by none.
Ids some_choice(std::int64_t rows, std::int64_t n, std::int64_t experts, std::int64_t unloved) {
  Ids chosen;
  for (std::int64_t t = 0; t < rows; ++t) {
    Ids own;
    for (std::int64_t e = t * t; std::ssize(own) < n; ++e)
      if (e % experts != unloved) own.push_back(e % experts);
    std::ranges::sort(own);
    chosen.insert(chosen.end(), own.begin(), own.end());
  }
  return chosen;
}

// ---------------------------------------------------------------- choice

/// Logits that are a quarter apart or more, so that neither bf16 nor a finite difference makes another choice.
Array some_logits(std::int64_t rows, std::int64_t experts) {
  Array z({rows, experts});
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t e = 0; e < experts; ++e)
      z(t, e) = 0.25 * static_cast<double>((e * 7 + t * 5) % experts) - 1;  // 7 is no divisor
  return z;
}

Ids best(const Array& z, std::int64_t row, std::int64_t n) {
  Ids order(static_cast<std::size_t>(z.size(1)));
  for (std::size_t e = 0; e < order.size(); ++e) order[e] = static_cast<std::int64_t>(e);
  std::ranges::stable_sort(order, [&](auto a, auto b) { return z(row, a) > z(row, b); });
  order.resize(static_cast<std::size_t>(n));
  std::ranges::sort(order);
  return order;
}

Operation choosing(const std::string& name, std::int64_t rows, std::int64_t experts, std::int64_t n) {
  return {.name = name,
          .inputs = {some_logits(rows, experts), random_array({experts}, 1)},
          .output_gradient = random_array({rows, n}, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                const auto &z = inputs[0], &scale = inputs[1];
                Array weights({rows, n});
                for (std::int64_t t = 0; t < rows; ++t) {
                  const Ids chosen = best(z, t, n);
                  double sum = 0;
                  for (const std::int64_t e : chosen) sum += std::exp(z(t, e));
                  for (std::int64_t k = 0; k < n; ++k)
                    weights(t, k) = std::exp(z(t, chosen[k])) / sum * scale.values[chosen[k]];
                }
                return weights;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const ExpertChoice choice = choice_to_write(device, rows, n);
                const Tensor dlogits = to_write(device, {rows, experts}), dscale = to_add_to(device, {experts});
                choose_experts_forward(device, as_fp32(device, inputs[0]), inputs[1], choice);
                choose_experts_backward(device, as_fp32(device, dy), choice, inputs[1], dlogits, dscale);
                return Result{choice.weights, {dlogits, dscale}};
              },
          .added = {1}};
}

INSTANTIATE_TEST_SUITE_P(ChooseExperts, OperationTest,
                         on_every_device({choosing("one_of_two", 3, 2, 1), choosing("all", 4, 5, 5),
                                          choosing("some", 40, 10, 3), choosing("many", 20, 128, 8)}),
                         operation_name);

class ExpertsTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, ExpertsTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(ExpertsTest, OfEqualLogitsTheLowerNumberWins) {
  Device device = make_device(GetParam());
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const Array z({5, 40});
  Array logits = z;
  for (std::int64_t e = 0; e < 40; ++e) {
    logits(1, e) = e == 35 || e == 7 || e == 20 ? 2 : 1;
    logits(2, e) = e % 2 == 0 ? nan : -1;
    logits(3, e) = nan;
    logits(4, e) = -infinity;
  }
  const ExpertChoice choice = choice_to_write(device, 5, 4);
  choose_experts_forward(device, to_device(device, logits), to_device(device, Array({40})), choice);
  EXPECT_EQ(device.ids_to_host(choice.experts), (Ids{0, 1, 2, 3, 0, 7, 20, 35, 1, 3, 5, 7, 0, 1, 2, 3, 0, 1, 2, 3}));
}

TEST_P(ExpertsTest, PairsStandExpertByExpertInTheOrderOfRows) {
  Device device = make_device(GetParam());
  const ExpertPairs pairs = pairs_of(device, {1, 3, 0, 1, 1, 3, 3, 4}, 2, 6);
  EXPECT_EQ(device.ids_to_host(pairs.offsets), (Ids{0, 1, 4, 4, 7, 8, 8}));
  EXPECT_EQ(device.ids_to_host(pairs.rows), (Ids{1, 0, 1, 2, 0, 2, 3, 3}));
  EXPECT_EQ(device.ids_to_host(pairs.places), (Ids{1, 4, 0, 2, 3, 5, 6, 7}));
  // More pairs than a block of threads looks at in one go.
  const Ids chosen = some_choice(700, 2, 5, 3);
  const ExpertPairs many = pairs_of(device, chosen, 2, 5);
  const Ids places = device.ids_to_host(many.places), rows = device.ids_to_host(many.rows);
  for (std::size_t i = 0; i < chosen.size(); ++i) EXPECT_EQ(rows[places[i]], static_cast<std::int64_t>(i) / 2);
  EXPECT_TRUE(std::ranges::is_sorted(std::vector(rows.begin(), rows.begin() + device.ids_to_host(many.offsets)[1])));
}

// ---------------------------------------------------------------- products

Operation products(const std::string& name, std::int64_t rows, std::int64_t n, std::int64_t experts, std::int64_t in,
                   std::int64_t out) {
  const Ids chosen = some_choice(rows, n, experts, 1);
  Ids expert_of = chosen;  // of each pair in its place
  std::ranges::sort(expert_of);
  return {.name = name,
          .inputs = {random_array({rows * n, in}, 1), random_array({experts, out, in}, 2)},
          .output_gradient = random_array({rows * n, out}, 3),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y({rows * n, out});
                for (std::int64_t p = 0; p < rows * n; ++p)
                  for (std::int64_t o = 0; o < out; ++o)
                    for (std::int64_t i = 0; i < in; ++i)
                      y(p, o) += inputs[0](p, i) * inputs[1].values[(expert_of[p] * out + o) * in + i];
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const ExpertPairs pairs = pairs_of(device, chosen, n, experts);
                const Tensor y = to_write(device, dy), dx = to_write(device, inputs[0]);
                const Tensor dw = to_add_to(device, inputs[1].shape());
                expert_linear_forward(device, pairs, inputs[0], inputs[1], y);
                expert_linear_backward_input(device, pairs, dy, inputs[1], dx);
                expert_linear_backward_weight(device, pairs, dy, inputs[0], dw);
                return Result{y, {dx, dw}};
              },
          .added = {1}};
}

// Several tiles in every direction, and experts whose pairs end within one.
INSTANTIATE_TEST_SUITE_P(ExpertLinear, OperationTest,
                         on_every_device({products("one_row", 1, 1, 3, 5, 3), products("small", 9, 2, 4, 12, 7),
                                          products("large", 280, 1, 3, 20, 270)}),
                         operation_name);

TEST_P(ExpertsTest, AnExpertWithoutRowsGetsNoGradient) {
  Device device = make_device(GetParam());
  const ExpertPairs pairs = pairs_of(device, {0, 2, 2}, 1, 3);
  const Tensor dw = to_add_to(device, {3, 4, 5});
  expert_linear_backward_weight(device, pairs, to_device(device, random_array({3, 4}, 1)),
                                to_device(device, random_array({3, 5}, 2)), dw);
  const Array gradient = to_host(device, dw);
  EXPECT_NE(gradient.values[0], 1);
  for (int i = 20; i < 40; ++i) EXPECT_EQ(gradient.values[i], 1);
}

// ---------------------------------------------------------------- sums

Operation sums(const std::string& name, std::int64_t rows, std::int64_t n, std::int64_t width, bool is_weighted) {
  constexpr std::int64_t experts = 6;
  const Ids chosen = some_choice(rows, n, experts, 2);
  Ids places;  // of the pairs, as they are sorted
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const auto before = [&](std::int64_t e) { return e < chosen[i]; };
    places.push_back(std::ranges::count_if(chosen, before) +
                     std::count(chosen.begin(), chosen.begin() + static_cast<std::ptrdiff_t>(i), chosen[i]));
  }
  std::vector<Array> inputs = {random_array({rows * n, width}, 1)};
  if (is_weighted) inputs.push_back(random_array({rows, n}, 2));
  return {.name = name,
          .inputs = inputs,
          .output_gradient = random_array({rows, width}, 3),
          .reference =
              [=](const std::vector<Array>& given) {
                Array y({rows, width});
                for (std::int64_t i = 0; i < rows * n; ++i)
                  for (std::int64_t c = 0; c < width; ++c)
                    y(i / n, c) += (is_weighted ? given[1].values[i] : 1) * given[0](places[i], c);
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& given, const Tensor& dy) {
                const ExpertPairs pairs = pairs_of(device, chosen, n, experts);
                const Tensor weights = is_weighted ? as_fp32(device, given[1]) : Tensor();
                const Tensor y = to_write(device, dy), dx = to_write(device, given[0]);
                const Tensor dweights = is_weighted ? to_write(device, weights) : Tensor();
                add_pairs_forward(device, pairs, given[0], weights, y);
                add_pairs_backward(device, pairs, dy, given[0], weights, dx, dweights);
                Result result{y, {dx}};
                if (is_weighted) result.gradients.push_back(dweights);
                return result;
              }};
}

INSTANTIATE_TEST_SUITE_P(AddPairs, OperationTest,
                         on_every_device({sums("plain", 5, 2, 7, false), sums("weighted", 40, 3, 304, true),
                                          sums("uneven", 13, 4, 21, true)}),
                         operation_name);

// ---------------------------------------------------------------- as Hugging Face has them

struct Stored {
  Stored(Device& on, const std::string& name) : device(on), entry(stored(name)) {}

  Tensor input(int i) const { return to_device(device, stored_array(entry.at("inputs").at(i))); }
  Tensor output_gradient() const { return to_device(device, stored_array(entry.at("output_gradient"))); }
  void expect_output(const Tensor& y) const { expect_close("y", to_host(device, y), stored_array(entry.at("output"))); }
  void expect_gradient(int i, const Tensor& gradient) const {
    expect_close(fmt::format("gradient of input {}", i), to_host(device, gradient),
                 stored_array(entry.at("gradients").at(i)));
  }

  Device& device;
  const nlohmann::json& entry;
};

TEST_P(ExpertsTest, ARouterIsThatOfHuggingFace) {
  Device device = make_device(GetParam());
  const Stored router(device, "router");
  const Tensor x = router.input(0), norm = router.input(1), proj = router.input(2), scale = router.input(3);
  const std::int64_t rows = 7, width = 6, experts = 5, n = 2;
  const float factor = 1 / std::sqrt(static_cast<float>(width));
  const Tensor normed = to_write(device, x), rrms = device.empty({rows}), logits = to_write(device, {rows, experts});
  rms_norm_forward(device, {}, x, norm, normed, rrms);
  mtp::ops::scale(device, normed, factor, normed);
  linear_forward(device, normed, proj, logits);
  const ExpertChoice choice = choice_to_write(device, rows, n);
  choose_experts_forward(device, logits, scale, choice);

  const Ids chosen = device.ids_to_host(choice.experts);
  const Array weights = to_host(device, choice.weights), dy = stored_array(router.entry.at("output_gradient"));
  Array y({rows, experts}), dweights({rows, n});
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t k = 0; k < n; ++k) {
      y(t, chosen[t * n + k]) = weights(t, k);
      dweights(t, k) = dy(t, chosen[t * n + k]);
    }
  expect_close("y", y, stored_array(router.entry.at("output")));

  const Tensor dlogits = to_write(device, logits), dscale = device.zeros({experts}), dproj = device.zeros(proj.shape());
  const Tensor dnormed = to_write(device, x), dx = to_write(device, x), dnorm = device.zeros({width});
  choose_experts_backward(device, to_device(device, dweights), choice, scale, dlogits, dscale);
  linear_backward_weight(device, dlogits, normed, dproj);
  linear_backward_input(device, dlogits, proj, dnormed);
  mtp::ops::scale(device, dnormed, factor, dnormed);
  rms_norm_backward(device, dnormed, x, norm, rrms, dx, dnorm);
  router.expect_gradient(0, dx);
  router.expect_gradient(1, dnorm);
  router.expect_gradient(2, dproj);
  router.expect_gradient(3, dscale);
}

TEST_P(ExpertsTest, ExpertsAreThoseOfHuggingFace) {
  Device device = make_device(GetParam());
  const Stored experts(device, "experts");
  const Tensor x = experts.input(0), gate_up = experts.input(1), down = experts.input(2), weights = experts.input(3);
  Ids chosen;
  for (const nlohmann::json& row : experts.entry.at("chosen")) chosen.insert(chosen.end(), row.begin(), row.end());
  const std::int64_t inner = 3, width = 6, count = std::ssize(chosen);
  const ExpertPairs pairs = pairs_of(device, chosen, 2, 5);
  const auto rows = [&](std::int64_t columns) { return to_write(device, {count, columns}); };
  const Tensor given = rows(width), both = rows(2 * inner), gate = rows(inner), up = rows(inner), h = rows(inner),
               out = rows(width), y = to_write(device, x);
  lookup_forward(device, x, pairs.rows, 1, given);
  expert_linear_forward(device, pairs, given, gate_up, both);
  split_columns(device, both, gate, up);
  gated_gelu_forward(device, gate, up, h);
  expert_linear_forward(device, pairs, h, down, out);
  add_pairs_forward(device, pairs, out, weights, y);
  experts.expect_output(y);

  const Tensor dout = rows(width), dh = rows(inner), dgate = rows(inner), dup = rows(inner), dboth = rows(2 * inner),
               dgiven = rows(width), dx = to_write(device, x), dweights = to_write(device, weights);
  const Tensor dgate_up = device.zeros(gate_up.shape()), ddown = device.zeros(down.shape());
  add_pairs_backward(device, pairs, experts.output_gradient(), out, weights, dout, dweights);
  expert_linear_backward_weight(device, pairs, dout, h, ddown);
  expert_linear_backward_input(device, pairs, dout, down, dh);
  gated_gelu_backward(device, dh, gate, up, dgate, dup);
  concat_columns(device, dgate, dup, dboth);
  expert_linear_backward_weight(device, pairs, dboth, given, dgate_up);
  expert_linear_backward_input(device, pairs, dboth, gate_up, dgiven);
  add_pairs_forward(device, pairs, dgiven, {}, dx);
  experts.expect_gradient(0, dx);
  experts.expect_gradient(1, dgate_up);
  experts.expect_gradient(2, ddown);
  experts.expect_gradient(3, dweights);
}

}  // namespace
}  // namespace mtp::ops::test
