// Attention in bf16 in the head sizes that GPUs compute on tensor cores, beside plain attention in double precision on
// the same inputs.

#include <cmath>

#include "mtp/ops/attention.h"
#include "mtp/tensor/bfloat16.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

using Kind = AttentionMask::Kind;

constexpr double rounding = 1.0 / 256;  // of bf16, at most

struct Case {
  std::string name;
  AttentionMask mask;
  std::vector<std::int64_t> lengths;
  std::int64_t heads, kv_heads, width;
  std::vector<std::int64_t> blocks = {};  // of the mask, if it has any

  Sequences sequences() const { return Sequences(lengths); }
  Shape queries() const { return {sequences().rows(), heads, width}; }
  Shape keys() const { return {sequences().rows(), kv_heads, width}; }
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Array bf16_array(const Shape& shape, unsigned seed, double scale = 1) {
  Array array = random_array(shape, seed, scale);
  for (double& value : array.values) value = rounded_to(DType::bf16, static_cast<float>(value));
  return array;
}

struct Inputs {
  Array q, k, v, dout;

  explicit Inputs(const Case& c)
      : q(bf16_array(c.queries(), 1, 6 / std::sqrt(static_cast<double>(c.width)))),  // scores of order one
        k(bf16_array(c.keys(), 2)),
        v(bf16_array(c.keys(), 3)),
        dout(bf16_array(c.queries(), 4)) {}
};

struct Results {
  Tensor out, lse, dq, dk, dv;
};

Results run(Device& device, const Case& c, const Inputs& inputs, bool with_keys = true) {
  const Tensor q = to_device(device, inputs.q, DType::bf16), k = to_device(device, inputs.k, DType::bf16);
  const Tensor v = to_device(device, inputs.v, DType::bf16), dout = to_device(device, inputs.dout, DType::bf16);
  Results results{to_write(device, q), to_write(device, {c.heads, q.size(0)}), to_write(device, q), {}, {}};
  if (with_keys) {
    results.dk = to_write(device, k);
    results.dv = to_write(device, k);
  }
  AttentionMask mask = c.mask;
  Tensor blocks;
  if (!c.blocks.empty()) {
    blocks = device.from_host(c.blocks);
    mask.blocks = blocks.data<std::int64_t>();
  }
  attention_forward(device, mask, c.sequences(), q, k, v, results.out, results.lse);
  attention_backward(device, mask, c.sequences(), dout, q, k, v, results.out, results.lse, results.dq, results.dk,
                     results.dv);
  return results;
}

/// Σ weight · row, with how far it may be off where each weight is rounded to bf16 and the sum once more: roundings of
/// n terms hardly ever add up to more than four times the root of their squares, and never to more than all of them.
struct Sums {
  Array values, sizes, squares;

  explicit Sums(const Shape& shape) : values(shape), sizes(shape), squares(shape) {}

  void add(std::int64_t to, double weight, const Array& rows, std::int64_t row) {
    for (std::int64_t i = 0; i < values.shape.back(); ++i) {
      const double term = weight * rows(row, i);
      values(to, i) += term;
      sizes(to, i) += std::abs(term);
      squares(to, i) += term * term;
    }
  }
  void expect(const std::string& what, const Array& actual) const {
    double largest = 0.1;  // as in expect_close
    for (const double value : values.values) largest = std::max(largest, std::abs(value));
    std::size_t worst = 0;
    double worst_ratio = -1;
    for (std::size_t i = 0; i < values.values.size(); ++i) {
      const double ratio = std::abs(actual.values[i] - values.values[i]) / bound(i, largest);
      if (!(ratio <= worst_ratio)) worst = i, worst_ratio = ratio;  // a NaN is the worst of all
      if (std::isnan(ratio)) break;
    }
    EXPECT_TRUE(worst_ratio <= 1) << what << "[" << worst << "] is " << actual.values[worst] << ", not "
                                  << values.values[worst] << ": " << worst_ratio << " times what is rounding";
  }

 private:
  double bound(std::size_t i, double largest) const {
    const double of_weights = std::min(sizes.values[i], 4 * std::sqrt(squares.values[i]));
    return rounding * (of_weights + std::abs(values.values[i])) + 1e-5 * largest;  // and fp32's
  }
};

double dot(const Array& a, std::int64_t row_a, const Array& b, std::int64_t row_b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.shape.back(); ++i) sum += a(row_a, i) * b(row_b, i);
  return sum;
}

/// What the results must be, with `out` as the device rounded it: the backward is a function of it.
struct Reference {
  Sums out, dq, dk, dv;
  Array lse;

  Reference(const Case& c, const Inputs& in, const Array& rounded_out)
      : out(c.queries()), dq(c.queries()), dk(c.keys()), dv(c.keys()), lse({c.heads, c.sequences().rows()}) {
    const Sequences sequences = c.sequences();
    for (std::int64_t b = 0; b < sequences.count(); ++b)
      for (std::int64_t t = 0; t < sequences.length(b); ++t)
        for (std::int64_t h = 0; h < c.heads; ++h) add_query(c, in, rounded_out, sequences, b, t, h);
  }

 private:
  void add_query(const Case& c, const Inputs& in, const Array& rounded_out, const Sequences& sequences, std::int64_t b,
                 std::int64_t t, std::int64_t h) {
    const std::int64_t first = sequences.begin(b), length = sequences.length(b), query = (first + t) * c.heads + h;
    const auto key = [&](std::int64_t j) { return (first + j) * c.kv_heads + h / (c.heads / c.kv_heads); };
    AttentionMask mask = c.mask;
    if (!c.blocks.empty()) mask.blocks = c.blocks.data();
    mask = mask.from_row(first);
    const std::int64_t begin = mask.begin(t, length), end = mask.end(t, length);
    std::vector<double> scores;
    double sum = 0;
    for (std::int64_t j = begin; j < end; ++j) {
      scores.push_back(dot(in.q, query, in.k, key(j)));
      sum += std::exp(scores.back());
    }
    lse(h, first + t) = std::log(sum);
    const double mean = dot(in.dout, query, rounded_out, query);
    for (std::int64_t j = begin; j < end; ++j) {
      const double p = std::exp(scores[j - begin]) / sum;
      const double dscore = p * (dot(in.dout, query, in.v, key(j)) - mean);
      out.add(query, p, in.v, key(j));
      dq.add(query, dscore, in.k, key(j));
      dk.add(key(j), dscore, in.q, query);
      dv.add(key(j), p, in.dout, query);
    }
  }
};

class Bf16AttentionTest : public testing::TestWithParam<std::tuple<DeviceKind, Case>> {
 protected:
  void SetUp() override { skip_without(kind()); }
  DeviceKind kind() const { return std::get<0>(GetParam()); }
  const Case& of() const { return std::get<1>(GetParam()); }
};

TEST_P(Bf16AttentionTest, ResultsDifferFromFp32ByRoundingsOfWeightsOnly) {
  Device device = make_device(kind());
  const Inputs inputs(of());
  const Results results = run(device, of(), inputs);
  const Array out = to_host(device, results.out);
  const Reference expected(of(), inputs, out);
  expected.out.expect("out", out);
  expect_close("lse", to_host(device, results.lse), expected.lse);
  expected.dq.expect("dq", to_host(device, results.dq));
  expected.dk.expect("dk", to_host(device, results.dk));
  expected.dv.expect("dv", to_host(device, results.dv));
}

TEST_P(Bf16AttentionTest, BitsDoNotDependOnThreads) {
  const Inputs inputs(of());
  expect_same_bits_on_any_threads(kind(), [&](Device& device) {
    const Results results = run(device, of(), inputs);
    return std::vector<Tensor>{results.out, results.lse, results.dq, results.dk, results.dv};
  });
}

/// Every width with every mask, several tiles of 64 rows that lengths do not divide, windows within and across tiles,
/// and key/value heads of one, two and four query heads.
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const std::string& name, const AttentionMask& mask, const std::vector<std::int64_t>& lengths,
                       std::int64_t heads, std::int64_t kv_heads, std::int64_t width) {
    all.push_back({name + "_" + std::to_string(width), mask, lengths, heads, kv_heads, width});
  };
  for (const std::int64_t width : {64, 128, 256, 512}) {
    add("causal", {Kind::causal}, {200}, 2, 1, width);
    add("sliding", {Kind::causal, 70}, {210, 1, 64}, 1, 1, width);
    add("mirrored", {Kind::mirrored, 40}, {130}, 2, 2, width);
  }
  for (const std::int64_t width : {64, 256}) {
    add("sliding_offset", {Kind::causal, 40, 1}, {150, 65}, 4, 1, width);
    add("everything", {Kind::everything}, {129, 3}, 2, 1, width);
  }
  for (const std::int64_t width : {64, 256}) {  // blocks across tiles, longer than the window
    add("image_blocks", {Kind::causal, 70}, {210, 64}, 2, 1, width);
    std::vector<std::int64_t> ids(274);
    for (std::int64_t t = 0; t < 274; ++t) ids[t] = t % 110 < 90;
    all.back().blocks = blocks_of(all.back().sequences(), ids, std::vector<std::int64_t>{1});
  }
  add("one_key", {Kind::causal, 1}, {70}, 1, 1, 64);
  add("long_window", {Kind::causal, 1000, 1}, {150, 20}, 2, 1, 128);
  add("mirrored_long_window", {Kind::mirrored, 1000}, {70}, 2, 1, 64);
  add("many_tiles", {Kind::causal, 512}, {700}, 1, 1, 64);
  add("eight_heads_on_two", {Kind::causal}, {70}, 8, 2, 512);
  return all;
}

std::string case_name(const testing::TestParamInfo<Bf16AttentionTest::ParamType>& info) {
  return device_name({std::get<0>(info.param), info.index}) + "_" + std::get<1>(info.param).name;
}

INSTANTIATE_TEST_SUITE_P(Attention, Bf16AttentionTest,
                         testing::Combine(testing::ValuesIn(device_kinds()), testing::ValuesIn(cases())), case_name);

class Bf16AttentionDeviceTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, Bf16AttentionDeviceTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(Bf16AttentionDeviceTest, QueriesHaveTheSameGradientsOnFrozenKeys) {
  Device device = make_device(GetParam());
  for (const std::int64_t width : {64, 512}) {
    const Case c{"", {Kind::causal, 30}, {70, 10}, 4, 2, width};
    const Inputs inputs(c);
    EXPECT_EQ(to_host(device, run(device, c, inputs, false).dq).values,
              to_host(device, run(device, c, inputs).dq).values)
        << "width " << width;
  }
}

TEST_P(Bf16AttentionDeviceTest, ASequenceIsNotTouchedByItsNeighbours) {
  Device device = make_device(GetParam());
  const Case c{"", {Kind::causal, 50}, {70, 90, 75}, 2, 1, 128};
  Inputs inputs(c);
  const Results before = run(device, c, inputs);
  for (Array* array : {&inputs.q, &inputs.k, &inputs.v, &inputs.dout}) {
    const std::int64_t row = num_elements(array->shape) / array->size(0);
    std::fill(array->values.begin() + 70 * row, array->values.begin() + 160 * row, std::nan(""));
  }
  const Results after = run(device, c, inputs);
  for (const auto& [one, other] :
       {std::pair(before.out, after.out), {before.dq, after.dq}, {before.dk, after.dk}, {before.dv, after.dv}})
    for (const std::int64_t first : {0, 160}) {
      const std::int64_t rows = first == 0 ? 70 : 75;
      const Shape shape{rows, one.size(1), one.size(2)};
      EXPECT_EQ(to_host(device, one.slice(first * one.size(1) * one.size(2), shape)).values,
                to_host(device, other.slice(first * one.size(1) * one.size(2), shape)).values);
    }
}

// exp of a score of 1024 is infinite, and so large a negative one's is zero: only differences may be exponentiated.
TEST_P(Bf16AttentionDeviceTest, LargeScoresStayFinite) {
  Device device = make_device(GetParam());
  for (const double score : {16.0, -16.0}) {
    const Case c{"", {Kind::causal}, {200}, 1, 1, 64};
    Inputs inputs(c);
    std::fill(inputs.q.values.begin(), inputs.q.values.end(), 1.0);
    std::fill(inputs.k.values.begin(), inputs.k.values.end(), score);
    Array mean(c.queries());
    for (std::int64_t i = 0; i < c.width; ++i) {
      double sum = 0;
      for (std::int64_t t = 0; t < 200; ++t) mean(t, i) = (sum += inputs.v(t, i)) / static_cast<double>(t + 1);
    }
    const Results results = run(device, c, inputs);
    expect_close("mean of the values so far", to_host(device, results.out), mean, rounding);
    for (const double value : to_host(device, results.dk).values) ASSERT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace mtp::ops::test
