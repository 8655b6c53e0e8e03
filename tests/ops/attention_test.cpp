#include "mtp/ops/attention.h"

#include <cmath>
#include <cstdlib>

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

using Kind = AttentionMask::Kind;

/// The masks as the design states them, position by position.
bool is_visible(const AttentionMask& mask, std::int64_t t, std::int64_t j, std::int64_t length) {
  if (mask.kind == Kind::everything) return true;
  if (mask.kind == Kind::mirrored) return std::abs(t - (length - 1 - j)) <= mask.window;
  return j <= t && (mask.window == 0 || j > t + mask.offset - mask.window);
}

TEST(AttentionMask, IntervalsHoldTheVisibleKeys) {
  for (const AttentionMask& mask :
       {AttentionMask{Kind::causal, 0, 0}, AttentionMask{Kind::causal, 0, 1}, AttentionMask{Kind::causal, 4, 0},
        AttentionMask{Kind::causal, 4, 1}, AttentionMask{Kind::everything}, AttentionMask{Kind::mirrored, 3}})
    for (std::int64_t length = 1; length <= 12; ++length)
      for (std::int64_t t = 0; t < length; ++t)
        for (std::int64_t j = 0; j < length; ++j)
          EXPECT_EQ(mask.begin(t, length) <= j && j < mask.end(t, length), is_visible(mask, t, j, length))
              << "kind " << static_cast<int>(mask.kind) << ", query " << t << ", key " << j << " of " << length;
}

/// Whether all positions from one to the other are in a block, without any that is not.
bool is_one_block(const std::vector<std::int64_t>& is_in_block, std::int64_t row, std::int64_t other) {
  for (std::int64_t at = std::min(row, other); at <= std::max(row, other); ++at)
    if (is_in_block[at] == 0) return false;
  return true;
}

TEST(AttentionMask, BlocksAreTheLongestRunsOfTheirIds) {
  const std::vector<std::int64_t> ids{7, 9, 7, 8, 5, 7, 6}, of_blocks{7, 9};
  EXPECT_EQ(blocks_of(Sequences({2, 5}), ids, of_blocks),
            (std::vector<std::int64_t>{0, 2, 0, 2, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5}));
}

struct Heads {
  std::int64_t query, key, width;
};

/// Calls body(first row, t, h) for every query.
template <typename Body>
void for_each_query(const Sequences& sequences, std::int64_t heads, const Body& body) {
  for (std::int64_t b = 0; b < sequences.count(); ++b)
    for (std::int64_t t = 0; t < sequences.length(b); ++t)
      for (std::int64_t h = 0; h < heads; ++h) body(b, t, h);
}

Array attention_reference(const AttentionMask& mask, const Sequences& sequences, const Heads& heads,
                          const std::vector<std::int64_t>& is_in_block, const std::vector<Array>& inputs) {
  const Array &q = inputs[0], &k = inputs[1], &v = inputs[2];
  Array out(q.shape);
  for_each_query(sequences, heads.query, [&](std::int64_t b, std::int64_t t, std::int64_t h) {
    const std::int64_t length = sequences.length(b), first = sequences.begin(b);
    const std::int64_t row = (first + t) * heads.query + h, group = h / (heads.query / heads.key);
    std::vector<double> weights(length);
    double sum = 0;
    for (std::int64_t j = 0; j < length; ++j) {
      const bool is_ahead = j > t && !is_in_block.empty() && is_one_block(is_in_block, first + t, first + j);
      if (!is_ahead && !is_visible(mask, t, j, length)) continue;
      double score = 0;
      for (std::int64_t i = 0; i < heads.width; ++i) score += q(row, i) * k((first + j) * heads.key + group, i);
      sum += weights[j] = std::exp(score);
    }
    for (std::int64_t j = 0; j < length; ++j)
      for (std::int64_t i = 0; weights[j] > 0 && i < heads.width; ++i)
        out(row, i) += weights[j] / sum * v((first + j) * heads.key + group, i);
  });
  return out;
}

/// `is_in_block`: 1 for each of the packed rows that is in a block, else 0; empty for a mask without blocks.
Operation attention(const std::string& name, const AttentionMask& mask, const std::vector<std::int64_t>& lengths,
                    const Heads& heads, bool with_keys = true, const std::vector<std::int64_t>& is_in_block = {}) {
  const Sequences sequences(lengths);
  const Shape queries = {sequences.rows(), heads.query, heads.width}, keys = {sequences.rows(), heads.key, heads.width};
  return {.name = name,
          .inputs = {random_array(queries, 1), random_array(keys, 2), random_array(keys, 3)},
          .output_gradient = random_array(queries, 4),
          .reference =
              [=](const std::vector<Array>& inputs) {
                return attention_reference(mask, sequences, heads, is_in_block, inputs);
              },
          .run =
              [=, mask = mask](Device& device, const std::vector<Tensor>& inputs, const Tensor& dout) mutable {
                Tensor blocks;
                if (!is_in_block.empty()) {
                  blocks = device.from_host(blocks_of(sequences, is_in_block, std::vector<std::int64_t>{1}));
                  mask.blocks = blocks.data<std::int64_t>();
                }
                const Tensor &q = inputs[0], &k = inputs[1], &v = inputs[2];
                const Tensor out = to_write(device, q), lse = to_write(device, {heads.query, sequences.rows()});
                attention_forward(device, mask, sequences, q, k, v, out, lse);
                const Tensor dq = to_write(device, q);
                const Tensor dk = with_keys ? to_write(device, k) : Tensor();
                const Tensor dv = with_keys ? to_write(device, k) : Tensor();
                attention_backward(device, mask, sequences, dout, q, k, v, out, lse, dq, dk, dv);
                return Result{out, {dq, dk, dv}};
              }};
}

/// The rows of which the block is that of i mod `period` < `rows`.
std::vector<std::int64_t> periodic_blocks(std::int64_t count, std::int64_t period, std::int64_t rows) {
  std::vector<std::int64_t> is_in_block(count);
  for (std::int64_t row = 0; row < count; ++row) is_in_block[row] = row % period < rows;
  return is_in_block;
}

// Lengths that blocks do not divide, several blocks long; windows shorter and longer than a sequence and than a block.
INSTANTIATE_TEST_SUITE_P(Attention, OperationTest,
                         on_every_device({attention("one_row", {Kind::causal}, {1}, {1, 1, 16}),
                                          attention("causal", {Kind::causal}, {150}, {2, 2, 16}),
                                          attention("causal_several_sequences", {Kind::causal}, {70, 1, 64, 131},
                                                    {4, 2, 16}),
                                          attention("wide_heads", {Kind::causal}, {90}, {2, 1, 64}),
                                          attention("many_query_heads", {Kind::causal}, {67}, {6, 2, 32}),
                                          attention("sliding", {Kind::causal, 40}, {150, 7, 70}, {2, 1, 16}),
                                          attention("sliding_offset", {Kind::causal, 40, 1}, {150, 7, 70}, {2, 1, 16}),
                                          attention("sliding_past_blocks", {Kind::causal, 5, 1}, {300}, {2, 1, 16}),
                                          attention("long_window", {Kind::causal, 500, 1}, {150, 20}, {2, 1, 32}),
                                          attention("offset", {Kind::causal, 0, 1}, {80}, {2, 1, 16}),
                                          attention("image_blocks", {Kind::causal, 40}, {150, 7, 70}, {2, 1, 16}, true,
                                                    periodic_blocks(227, 50, 30)),
                                          attention("image_blocks_past_the_window", {Kind::causal, 7}, {140},
                                                    {4, 2, 16}, true, periodic_blocks(140, 99, 90)),
                                          attention("everything", {Kind::everything}, {140, 3}, {2, 1, 16}),
                                          attention("mirrored", {Kind::mirrored, 30}, {150, 1, 40}, {2, 1, 16}),
                                          attention("mirrored_long_window", {Kind::mirrored, 200}, {70}, {4, 2, 32}),
                                          attention("frozen_keys", {Kind::causal, 30}, {70, 10}, {4, 2, 16}, false)}),
                         operation_name);

Operation stored_attention(const AttentionMask& mask, const std::string& name,
                           const std::vector<std::int64_t>& is_in_block = {}) {
  return with_stored_values(attention("", mask, {9}, {4, 2, 6}, true, is_in_block), name);
}

INSTANTIATE_TEST_SUITE_P(StoredAttention, OperationTest,
                         on_every_device({stored_attention({Kind::causal}, "attention_causal"),
                                          stored_attention({Kind::causal, 3}, "attention_sliding"),
                                          stored_attention({Kind::causal, 3}, "attention_sliding_image",
                                                           {0, 1, 1, 1, 1, 0, 0, 1, 1}),
                                          stored_attention({Kind::causal, 3, 1}, "attention_sliding_offset_1"),
                                          stored_attention({Kind::everything}, "attention_everything"),
                                          stored_attention({Kind::mirrored, 3}, "attention_mirrored")}),
                         operation_name);

class AttentionTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, AttentionTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(AttentionTest, LogOfTheSumOfExponentialsIsKept) {
  const std::int64_t length = 150, width = 16;
  const Array q = random_array({length, 1, width}, 1), k = random_array({length, 1, width}, 2);
  Device device = make_device(GetParam());
  const Tensor keys = to_device(device, k), out = to_write(device, q.shape), lse = to_write(device, {1, length});
  attention_forward(device, {Kind::causal}, Sequences({length}), to_device(device, q), keys, keys, out, lse);
  Array expected({1, length});
  for (std::int64_t t = 0; t < length; ++t) {
    double sum = 0;
    for (std::int64_t j = 0; j <= t; ++j) {
      double score = 0;
      for (std::int64_t i = 0; i < width; ++i) score += q(t, i) * k(j, i);
      sum += std::exp(score);
    }
    expected(0, t) = std::log(sum);
  }
  expect_close("lse", to_host(device, lse), expected);
}

// exp of a score of 1000 is infinite, and so large a negative one's is zero: only differences may be exponentiated.
TEST_P(AttentionTest, LargeScoresStayFinite) {
  Device device = make_device(GetParam());
  for (const float score : {1000.0f, -1000.0f}) {
    const Shape shape = {200, 1, 1};
    const Tensor q = device.from_host(std::vector<float>(200, 1.0f), shape);
    const Tensor k = device.from_host(std::vector<float>(200, score), shape);
    const Array values = random_array(shape, 1);
    const Tensor out = to_write(device, shape), lse = to_write(device, {1, 200});
    attention_forward(device, {Kind::causal}, Sequences({200}), q, k, to_device(device, values), out, lse);
    Array mean(shape);
    double sum = 0;
    for (std::int64_t t = 0; t < 200; ++t) mean(t, 0) = (sum += values(t, 0)) / static_cast<double>(t + 1);
    expect_close("mean of the values so far", to_host(device, out), mean);
  }
}

TEST_P(AttentionTest, NoSquareMatrixIsStored) {
  const std::int64_t length = 2048;
  Device device = make_device(GetParam());
  const Tensor x = to_device(device, random_array({length, 1, 16}, 1)), out = to_write(device, x.shape());
  const Tensor lse = to_write(device, {1, length}), dq = to_write(device, x.shape());
  const Tensor dk = to_write(device, x.shape()), dv = to_write(device, x.shape());
  const Sequences sequences({length});
  attention_forward(device, {Kind::causal}, sequences, x, x, x, out, lse);
  attention_backward(device, {Kind::causal}, sequences, x, x, x, x, out, lse, dq, dk, dv);
  EXPECT_LT(device.memory_peak(), length * length * static_cast<std::int64_t>(sizeof(float)) / 4);
}

}  // namespace
}  // namespace mtp::ops::test
