#include "mtp/ops/rowwise.h"

#include <cmath>

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

class RowwiseTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, RowwiseTest, testing::ValuesIn(device_kinds()), device_name);

Array first_rows(const Array& x, std::int64_t rows) {
  Array first({rows, x.size(1)});
  std::copy_n(x.values.begin(), first.values.size(), first.values.begin());
  return first;
}

Array linear(DeviceKind kind, const Array& x, const Array& w) {
  Device device = make_device(kind);
  const Tensor y = to_write(device, {x.size(0), w.size(0)});
  rowwise_linear(device, to_device(device, x), to_device(device, w), y);
  return to_host(device, y);
}

TEST_P(RowwiseTest, LinearIsTheProduct) {
  for (const std::int64_t width : {5, 72, 600}) {
    const Array x = random_array({11, width}, 1), w = random_array({37, width}, 2);
    Array expected({11, 37});
    for (std::int64_t t = 0; t < 11; ++t)
      for (std::int64_t o = 0; o < 37; ++o)
        for (std::int64_t i = 0; i < width; ++i) expected(t, o) += x(t, i) * w(o, i);
    expect_close("y", linear(GetParam(), x, w), expected);
  }
}

TEST_P(RowwiseTest, ARowsBitsDoNotDependOnTheRowsBesideIt) {
  const Array x = random_array({11, 72}, 1), w = random_array({37, 72}, 2), all = linear(GetParam(), x, w);
  for (std::int64_t rows = 1; rows < 11; ++rows)
    EXPECT_EQ(linear(GetParam(), first_rows(x, rows), w).values, first_rows(all, rows).values) << rows << " rows";
}

TEST_P(RowwiseTest, TheLowestOfTheLargestIsChosen) {
  Device device = make_device(GetParam());
  const Tensor choices = device.empty({3}, DType::i64);
  rowwise_choice(device, to_device(device, Array({3, 1}, {1, -1, NAN})),
                 to_device(device, Array({4, 1}, {0, 2, 2, -1})), choices);
  std::vector<std::int64_t> values(3);
  device.to_host(choices, values);
  EXPECT_EQ(values, (std::vector<std::int64_t>{1, 3, -1}));
}

// Keys of a window lie in a ring that has come round several times.
TEST_P(RowwiseTest, AttentionIsThatOfTheWholeSequence) {
  const std::int64_t length = 300, width = 24, heads = 4, kv_heads = 2, rows = 3, first = length - rows;
  const Array q = random_array({rows, heads, width}, 1), k = random_array({length, kv_heads, width}, 2),
              v = random_array({length, kv_heads, width}, 3);
  for (const std::int64_t window : {0, 40}) {
    const AttentionMask mask{.window = window, .offset = 1};
    const std::int64_t n = window > 0 ? window + rows : length;
    Array ring_k({n, kv_heads, width}), ring_v(ring_k.shape), expected(q.shape);
    for (std::int64_t i = 0; i < length * kv_heads; ++i)
      for (std::int64_t c = 0; c < width; ++c) {
        ring_k(i % (n * kv_heads), c) = k(i, c);
        ring_v(i % (n * kv_heads), c) = v(i, c);
      }
    for (std::int64_t i = 0; i < rows * heads; ++i) {
      const std::int64_t t = first + i / heads, group = i % heads / (heads / kv_heads);
      double sum = 0;
      for (std::int64_t j = mask.begin(t, 0); j < mask.end(t, 0); ++j) {
        double score = 0;
        for (std::int64_t c = 0; c < width; ++c) score += q(i, c) * k(j * kv_heads + group, c);
        sum += std::exp(score);
        for (std::int64_t c = 0; c < width; ++c) expected(i, c) += std::exp(score) * v(j * kv_heads + group, c);
      }
      for (std::int64_t c = 0; c < width; ++c) expected(i, c) /= sum;
    }
    Device device = make_device(GetParam());
    const Tensor out = to_write(device, q.shape);
    rowwise_attention(device, mask, first, to_device(device, q), to_device(device, ring_k), to_device(device, ring_v),
                      out);
    expect_close("attention", to_host(device, out), expected);
  }
}

}  // namespace
}  // namespace mtp::ops::test
