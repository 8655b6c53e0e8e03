// What decoding stands on: a row's bits, on whatever number of rows it is computed with; and the values themselves.

#include "mtp/ops/rowwise.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/norm.h"
#include "mtp/ops/rope.h"
#include "ops/support.h"

namespace mtp::ops::test {
namespace {

constexpr std::int64_t most_rows = 17;  // several passes over the weights

class RowwiseTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (!IsSkipped()) made.reset(new Device(make_device(GetParam())));
  }

  /// Rows begin … begin + rows - 1 of x.
  Tensor rows_of(const Tensor& x, std::int64_t begin, std::int64_t rows) {
    Shape shape = x.shape();
    const std::int64_t width = x.elements() / shape[0];
    shape[0] = rows;
    return x.slice(begin * width, shape);
  }

  /// `run(first, rows)` computes rows of one result: each has the bits that it has alone.
  void expect_rowwise(const std::string& what, const std::function<Tensor(std::int64_t, std::int64_t)>& run) {
    std::vector<std::vector<double>> alone;
    for (std::int64_t row = 0; row < most_rows; ++row) alone.push_back(to_host(*made, run(row, 1)).values);
    const std::size_t width = alone[0].size();
    for (std::int64_t rows = 2; rows <= most_rows; ++rows)
      for (const std::int64_t first : {std::int64_t{0}, most_rows - rows}) {
        const std::vector<double> together = to_host(*made, run(first, rows)).values;
        for (std::int64_t row = 0; row < rows; ++row)
          EXPECT_EQ(std::memcmp(together.data() + static_cast<std::size_t>(row) * width, alone[first + row].data(),
                                width * sizeof(double)),
                    0)
              << what << ": row " << row << " of " << rows << " from " << first;
      }
  }

  std::unique_ptr<Device> made;  // in SetUp: there may be none of its kind
};
INSTANTIATE_TEST_SUITE_P(Devices, RowwiseTest, testing::ValuesIn(device_kinds()), device_name);

/// `rows` rows of a text, from a position on.
RowPlaces places(Device& device, std::int64_t first, std::int64_t rows, std::int64_t text = 0) {
  std::vector<std::int64_t> positions(rows);
  std::iota(positions.begin(), positions.end(), first);
  return {.positions = device.from_host(positions), .texts = device.from_host(std::vector(rows, text))};
}
Tensor positions(Device& device, std::int64_t first, std::int64_t rows) {
  return places(device, first, rows).positions;
}

struct Size {
  std::int64_t in, out;
};
// Whole vectors, a rest of each kind, and enough outputs for several threads.
constexpr Size sizes[] = {{64, 48}, {168, 33}, {30, 7}, {3, 5}, {600, 500}};

Array product(const Array& x, const Array& w) {
  Array y({x.size(0), w.size(0)});
  for (std::int64_t t = 0; t < x.size(0); ++t)
    for (std::int64_t o = 0; o < w.size(0); ++o)
      for (std::int64_t i = 0; i < x.size(1); ++i) y(t, o) += x(t, i) * w(o, i);
  return y;
}

TEST_P(RowwiseTest, ProductsAreThoseOfThePlainSum) {
  Device& device = *made;
  for (const Size& size : sizes)
    for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13}) {
      const Array x = random_array({rows, size.in}, 1), w = random_array({size.out, size.in}, 2);
      const Tensor y = to_write(device, {rows, size.out});
      rowwise_linear(device, to_device(device, x), {to_device(device, w)}, {y});
      expect_close(fmt::format("{} rows, {} to {}", rows, size.in, size.out), to_host(device, y), product(x, w));
    }
}

TEST_P(RowwiseTest, ProductsHaveTheSameBitsOnAnyNumberOfRows) {
  Device& device = *made;
  for (const Size& size : sizes) {
    const Tensor x = to_device(device, random_array({most_rows, size.in}, 1));
    const Tensor w = to_device(device, random_array({size.out, size.in}, 2));
    expect_rowwise("product", [&](std::int64_t first, std::int64_t rows) {
      const Tensor y = device.empty({rows, size.out});
      rowwise_linear(device, rows_of(x, first, rows), {w}, {y});
      return y;
    });
  }
}

TEST_P(RowwiseTest, ProductsHaveTheSameBitsOnAnyThreads) {
  expect_same_bits_on_any_threads(GetParam(), [](Device& any) {
    const Tensor y = any.empty({5, 500});
    rowwise_linear(any, to_device(any, random_array({5, 600}, 1)), {to_device(any, random_array({500, 600}, 2))}, {y});
    return std::vector{y};
  });
}

TEST_P(RowwiseTest, ExpertsAreThoseOfHuggingFace) {
  Device& device = *made;
  const nlohmann::json& entry = stored("experts");
  const auto input = [&](int i) { return to_device(device, stored_array(entry.at("inputs").at(i))); };
  std::vector<std::int64_t> chosen;
  for (const nlohmann::json& row : entry.at("chosen")) chosen.insert(chosen.end(), row.begin(), row.end());
  const Tensor x = input(0), y = to_write(device, x);
  rowwise_experts(device, x, device.from_host(chosen).view({x.size(0), 2}), input(3), input(1), input(2), y);
  expect_close("y", to_host(device, y), stored_array(entry.at("output")));
}

TEST_P(RowwiseTest, ExpertsHaveTheSameBitsOnAnyNumberOfRows) {
  Device& device = *made;
  constexpr std::int64_t experts = 5, n = 2;
  for (const auto& [hidden, inner] : {std::pair<std::int64_t, std::int64_t>{64, 48}, {30, 7}, {600, 40}}) {
    const Tensor x = to_device(device, random_array({most_rows, hidden}, 1));
    const Tensor gate_up = to_device(device, random_array({experts, 2 * inner, hidden}, 2)),
                 down = to_device(device, random_array({experts, hidden, inner}, 3)),
                 weights = to_device(device, random_array({most_rows, n}, 4));
    std::vector<std::int64_t> chosen;
    for (std::int64_t row = 0; row < most_rows; ++row) chosen.insert(chosen.end(), {row % 3, 3 + row % 2});
    const Tensor on_device = device.from_host(chosen).view({most_rows, n});
    expect_rowwise("experts", [&](std::int64_t first, std::int64_t rows) {
      Tensor y = device.empty({rows, hidden});
      rowwise_experts(device, rows_of(x, first, rows), rows_of(on_device, first, rows), rows_of(weights, first, rows),
                      gate_up, down, y);
      return y;
    });
  }
}

TEST_P(RowwiseTest, ChoicesAreTheLargestAndOfEqualOnesTheLowest) {
  Device& device = *made;
  const auto choices_of = [&](const Array& x, const Array& w, std::int64_t none = -1) {
    const Tensor choices = device.empty({x.size(0)}, DType::i64);
    rowwise_choice(device, to_device(device, x), to_device(device, w), none, choices);
    std::vector<std::int64_t> values(static_cast<std::size_t>(x.size(0)));
    device.to_host(choices, values);
    return values;
  };
  const Array x = random_array({7, 24}, 1), w = random_array({500, 24}, 2), logits = product(x, w);
  std::vector<std::int64_t> want;
  for (std::int64_t t = 0; t < 7; ++t) {
    const auto row = logits.values.begin() + t * 500;
    want.push_back(std::max_element(row, row + 500) - row);
  }
  EXPECT_EQ(choices_of(x, w), want);
  EXPECT_EQ(choices_of(Array({2, 1}, {1, -1}), Array({6, 1}, {0, 2, 1, 2, 2, 0})), (std::vector<std::int64_t>{1, 0}));
  const double nan = std::nan("");
  EXPECT_EQ(choices_of(Array({1, 1}, {1}), Array({3, 1}, {nan, -3, -2})), std::vector<std::int64_t>{2});
  EXPECT_EQ(choices_of(Array({1, 1}, {nan}), Array({3, 1}, {1, 2, 3})), std::vector<std::int64_t>{-1});
  EXPECT_EQ(choices_of(Array({1, 1}, {nan}), Array({3, 1}, {1, 2, 3}), 0), std::vector<std::int64_t>{0});
  // Equal ones in several parts of a large vocabulary.
  Array many({10000, 1});
  many(4097, 0) = many(9000, 0) = many(4100, 0) = 3;
  EXPECT_EQ(choices_of(Array({1, 1}, {1}), many), std::vector<std::int64_t>{4097});
}

/// One text's attention, with keys and values in a ring.
struct Attention {
  AttentionMask mask;
  std::int64_t first, heads, kv_heads, width, ring;
};
const Attention attentions[] = {
    {{.window = 0, .offset = 0}, 20, 4, 2, 16, 60},  // all positions held
    {{.window = 7, .offset = 0}, 20, 4, 2, 16, 7 + most_rows - 1},
    {{.window = 7, .offset = 1}, 20, 2, 2, 24, 7 + most_rows - 1},
    {{.window = 9, .offset = 0}, 2, 6, 1, 12, 40},     // the first rows see less than the window
    {{.window = 0, .offset = 1}, 300, 8, 1, 64, 400},  // several threads
};

/// Row j of all positions in row j mod ring, of one text.
Array in_ring(const Array& all, std::int64_t positions, std::int64_t ring) {
  Array held({1, ring, all.size(1), all.size(2)}, std::vector<double>(ring * all.size(1) * all.size(2), std::nan("")));
  const std::int64_t width = all.size(1) * all.size(2);
  for (std::int64_t j = 0; j < positions; ++j)
    std::copy_n(all.values.begin() + j * width, width, held.values.begin() + j % ring * width);
  return held;
}

Array plain_attention(const Attention& a, const Array& q, const Array& k, const Array& v) {
  Array out(q.shape);
  for (std::int64_t i = 0; i < q.size(0) * a.heads; ++i) {
    const std::int64_t t = a.first + i / a.heads, group = i % a.heads / (a.heads / a.kv_heads);
    const auto at = [&](std::int64_t j, std::int64_t c) { return (j * a.kv_heads + group) * a.width + c; };
    double sum = 0;
    std::vector<double> mixed(a.width);
    for (std::int64_t j = a.mask.begin(t, 0); j < a.mask.end(t, 0); ++j) {
      double score = 0;
      for (std::int64_t c = 0; c < a.width; ++c) score += q.values[i * a.width + c] * k.values[at(j, c)];
      sum += std::exp(score);
      for (std::int64_t c = 0; c < a.width; ++c) mixed[c] += std::exp(score) * v.values[at(j, c)];
    }
    for (std::int64_t c = 0; c < a.width; ++c) out.values[i * a.width + c] = mixed[c] / sum;
  }
  return out;
}

TEST_P(RowwiseTest, AttentionIsThatOfThePlainSumOverARing) {
  Device& device = *made;
  for (const Attention& a : attentions) {
    const std::int64_t positions = a.first + most_rows;
    const Array q = random_array({most_rows, a.heads, a.width}, 1);
    const Array k = random_array({positions, a.kv_heads, a.width}, 2),
                v = random_array({positions, a.kv_heads, a.width}, 3);
    const Tensor out = to_write(device, q.shape);
    rowwise_attention(device, a.mask, places(device, a.first, most_rows), to_device(device, q),
                      to_device(device, in_ring(k, positions, a.ring)),
                      to_device(device, in_ring(v, positions, a.ring)), out);
    expect_close(fmt::format("window {}, offset {}", a.mask.window, a.mask.offset), to_host(device, out),
                 plain_attention(a, q, k, v));
  }
}

TEST_P(RowwiseTest, AttentionHasTheSameBitsOnAnyNumberOfRowsAndInAnyRing) {
  Device& device = *made;
  for (const Attention& a : attentions) {
    const std::int64_t positions = a.first + most_rows;
    const Tensor q = to_device(device, random_array({most_rows, a.heads, a.width}, 1));
    const Array k = random_array({positions, a.kv_heads, a.width}, 2),
                v = random_array({positions, a.kv_heads, a.width}, 3);
    expect_rowwise("attention", [&](std::int64_t first, std::int64_t rows) {
      const std::int64_t ring = a.ring + (rows == 1 ? 0 : rows);  // another place for each position
      const Tensor out = device.empty({rows, a.heads, a.width});
      rowwise_attention(device, a.mask, places(device, a.first + first, rows), rows_of(q, first, rows),
                        to_device(device, in_ring(k, a.first + first + rows, ring)),
                        to_device(device, in_ring(v, a.first + first + rows, ring)), out);
      return out;
    });
  }
}

// What the fused operations stand for, done one by one. The widths are those of whole vectors, with several chunks, and
// one of any width; the outputs are few and many, so that sums are split over warps and not.
TEST_P(RowwiseTest, ProductsWithWhatComesBeforeAndAfterThemAreThoseOfOneByOne) {
  Device& device = *made;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Size& size : {Size{512, 2304}, Size{1280, 40}, Size{30, 8}}) {
      const std::int64_t in = size.in, out = size.out;
      const auto random = [&](Shape shape, unsigned seed) {
        return to_device(device, random_array(shape, seed), dtype);
      };
      const Tensor w = random({out, in}, 1), up = random({out, in}, 2), factors = random({most_rows, out}, 3);
      const Tensor residual = random({most_rows, in}, 4), branch = random({most_rows, in}, 5);
      const Tensor branch_weight = random({in}, 6), weight = random({in}, 7);
      for (const std::int64_t rows :
           out > 1000 ? std::vector<std::int64_t>{5} : std::vector<std::int64_t>{1, 3, 5, 9}) {
        const auto empty = [&](std::int64_t width) { return device.empty({rows, width}, dtype); };
        const auto close = [&](const char* what, const Tensor& got, const Tensor& want) {
          expect_close(fmt::format("{} of {} rows, {} to {}, {}", what, rows, in, out, to_string(dtype)),
                       to_host(device, got), to_host(device, want), dtype == DType::f32 ? 1e-5 : 0.02);
        };
        const auto input = [&](const Tensor& x) {
          RowwiseInput all(x);
          all.residual = rows_of(residual, 0, rows);
          all.branch = rows_of(branch, 0, rows);
          all.branch_weight = branch_weight;
          all.weight = weight;
          all.factor = 0.7f;
          return all;
        };
        const Tensor sum = empty(in), normed = empty(in), gate = empty(out), other = empty(out), gated = empty(out);
        add_rms_norm_forward(device, {}, rows_of(residual, 0, rows), rows_of(branch, 0, rows), branch_weight, sum,
                             device.empty({rows}));
        ops::scale(device, sum, 0.7f, sum);
        rms_norm_forward(device, {}, sum, weight, normed, device.empty({rows}));
        rowwise_linear(device, normed, {w}, {gate});
        rowwise_linear(device, normed, {up}, {other});

        const Tensor x = to_write(device, sum), a = to_write(device, gate), b = to_write(device, gate);
        rowwise_linear(device, input(x), {w, up}, {a, b});
        close("sum", x, sum);
        close("first product", a, gate);
        close("second product", b, other);
        gated_gelu_forward(device, gate, other, gated);
        rowwise_gated_linear(device, input(to_write(device, sum)), w, up, a);
        close("gated product", a, gated);
        gated_gelu_forward(device, gate, rows_of(factors, 0, rows), gated);
        rowwise_gate(device, input(to_write(device, sum)), w, rows_of(factors, 0, rows), a);
        close("gate", a, gated);
      }
    }
}

TEST_P(RowwiseTest, ProductsWithWhatComesBeforeThemHaveTheSameBitsOnAnyNumberOfRows) {
  Device& device = *made;
  constexpr std::int64_t in = 768, out = 24;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto random = [&](Shape shape, unsigned seed) { return to_device(device, random_array(shape, seed), dtype); };
    const Tensor w = random({out, in}, 1), up = random({out, in}, 2), residual = random({most_rows, in}, 4),
                 branch = random({most_rows, in}, 5), branch_weight = random({in}, 6), weight = random({in}, 7);
    expect_rowwise("gated product", [&](std::int64_t first, std::int64_t rows) {
      RowwiseInput x(device.empty({rows, in}, dtype));
      x.residual = rows_of(residual, first, rows);
      x.branch = rows_of(branch, first, rows);
      x.branch_weight = branch_weight;
      x.weight = weight;
      const Tensor y = device.empty({rows, out}, dtype);
      rowwise_gated_linear(device, x, w, up, y);
      return y;
    });
  }
}

TEST_P(RowwiseTest, HeadsAreNormedRotatedAndPutInTheirRing) {
  Device& device = *made;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t width : {12, 32, 512}) {
      Rope rope{.inverse_frequencies = std::vector<float>(width / 2), .position_offset = 1};
      for (std::int64_t i = 0; i < width / 2; ++i) rope.inverse_frequencies[i] = 1.0f / static_cast<float>(1 + i);
      const std::int64_t first = 6;
      const Tensor weight = to_device(device, random_array({width}, 3), dtype);
      expect_rowwise("heads", [&](std::int64_t begin, std::int64_t rows) {
        const Tensor q = to_device(device, random_array({most_rows, 3, width}, 1), dtype),
                     y = device.empty({rows, 3, width}, dtype);
        rowwise_heads(device, {}, rope, places(device, first + begin, rows),
                      {{rows_of(q, begin, rows), weight, true, y}});
        return y;
      });
      const Tensor q = to_device(device, random_array({4, 3, width}, 1), dtype),
                   k = to_device(device, random_array({4, 1, width}, 2), dtype);
      const Tensor y = device.empty(q.shape(), dtype), ring = device.zeros({2, 7, 1, width}, dtype),
                   values = device.zeros({2, 9, 1, width}, dtype);
      rowwise_heads(device, {}, rope, places(device, first, 4, 1),
                    {{k, weight, true, ring, true}, {k, {}, false, values, true}, {q, weight, true, y}});

      const auto normed = [&](const Tensor& x, const Tensor& scale) {
        const Tensor result = device.empty(x.shape(), dtype);
        rms_norm_forward(device, {}, x, scale, result, device.empty({x.elements() / width}));
        return result;
      };
      const auto rotated = [&](const Tensor& x) {
        const Tensor result = device.empty(x.shape(), dtype);
        rope_forward(device, rope, Sequences::at(positions(device, first, x.size(0))), x, result);
        return result;
      };
      const Tensor want_ring = device.zeros(ring.shape(), dtype), want_values = device.zeros(values.shape(), dtype);
      const auto put = [&](const Tensor& rows, const Tensor& rings) {  // of the second text
        const std::int64_t n = rings.size(1);
        for (std::int64_t i = 0; i < rows.size(0); ++i)
          device.copy(rows.slice(i * width, {width}), rings.slice((n + (first + i) % n) * width, {width}));
      };
      put(rotated(normed(k, weight)), want_ring);
      put(normed(k, {}), want_values);
      const double tolerance = dtype == DType::f32 ? 1e-5 : 0.02;
      expect_close("queries", to_host(device, y), to_host(device, rotated(normed(q, weight))), tolerance);
      expect_close("ring of keys", to_host(device, ring), to_host(device, want_ring), tolerance);
      expect_close("ring of values", to_host(device, values), to_host(device, want_values), tolerance);
    }
}

TEST_P(RowwiseTest, TheLastRowsOfManyAreInTheRing) {
  Device& device = *made;
  const Array rows = random_array({11, 2, 3}, 1);
  const Tensor ring = device.zeros({4, 2, 3});
  put_in_ring(device, to_device(device, rows), ring);
  EXPECT_EQ(to_host(device, ring).values, in_ring(rows, 11, 4).values);
}

// Rows of three texts, at places that have nothing to do with each other: each has the bits that it has where its text
// is the only one.
TEST_P(RowwiseTest, RowsOfSeveralTextsHaveTheBitsOfEachAlone) {
  Device& device = *made;
  constexpr std::int64_t texts = 3, ring = 40, heads = 4, kv_heads = 2, width = 16;
  const std::vector<std::int64_t> text{2, 0, 1, 0, 2, 2, 1, 0, 1}, position{30, 0, 17, 1, 31, 32, 39, 2, 5};
  const auto rows = static_cast<std::int64_t>(text.size());
  const Tensor q = to_device(device, random_array({rows, heads, width}, 1)),
               weight = to_device(device, random_array({width}, 4));
  const Tensor k = to_device(device, random_array({texts, ring, kv_heads, width}, 2)),
               v = to_device(device, random_array({texts, ring, kv_heads, width}, 3));
  Rope rope{.inverse_frequencies = std::vector<float>(width / 2, 0.3f)};
  const auto run = [&](const Tensor& queries, const RowPlaces& where, const Tensor& keys, const Tensor& values) {
    const Tensor turned = device.empty(queries.shape()), out = device.empty(queries.shape());
    rowwise_heads(device, {}, rope, where, {{queries, weight, true, turned}});
    rowwise_attention(device, {.window = 9}, where, turned, keys, values, out);
    return to_host(device, out).values;
  };
  const std::vector<double> together =
      run(q, {.positions = device.from_host(position), .texts = device.from_host(text)}, k, v);
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto only = [&](const Tensor& all) { return rows_of(all, text[row], 1); };
    const std::vector<double> alone = run(rows_of(q, row, 1), places(device, position[row], 1), only(k), only(v));
    EXPECT_EQ(std::vector(together.begin() + row * heads * width, together.begin() + (row + 1) * heads * width), alone)
        << "row " << row;
  }
}

// The rest of what a forward of decoding consists of. The widths leave rows at every alignment.
TEST_P(RowwiseTest, OtherOperationsHaveTheSameBitsOnAnyNumberOfRows) {
  Device& device = *made;
  for (const std::int64_t width : {4, 12, 30, 168, 1000}) {
    const Tensor x = to_device(device, random_array({most_rows, width}, 1)),
                 other = to_device(device, random_array({most_rows, width}, 2));
    const Tensor weight = to_device(device, random_array({width}, 3));
    const auto expect = [&](const char* what,
                            const std::function<void(const Tensor&, const Tensor&, const Tensor&)>& run) {
      expect_rowwise(fmt::format("{} of width {}", what, width), [&](std::int64_t first, std::int64_t rows) {
        const Tensor y = device.empty({rows, width});
        run(rows_of(x, first, rows), rows_of(other, first, rows), y);
        return y;
      });
    };
    for (const Tensor& scale : {weight, Tensor()})
      expect("rms_norm", [&](const Tensor& a, const Tensor&, const Tensor& y) {
        rms_norm_forward(device, {}, a, scale, y, device.empty({a.size(0)}));
      });
    expect("add", [&](const Tensor& a, const Tensor& b, const Tensor& y) { add(device, a, b, y); });
    expect("add_scaled", [&](const Tensor& a, const Tensor& b, const Tensor& y) { add_scaled(device, a, b, 0.7f, y); });
    expect("scale", [&](const Tensor& a, const Tensor&, const Tensor& y) { ops::scale(device, a, 0.7f, y); });
    expect("gated_gelu",
           [&](const Tensor& a, const Tensor& b, const Tensor& y) { gated_gelu_forward(device, a, b, y); });
    Rope rope{.inverse_frequencies = std::vector<float>(width / 2), .position_offset = 1};
    for (std::int64_t i = 0; i < width / 2; ++i) rope.inverse_frequencies[i] = 1.0f / static_cast<float>(1 + i);
    expect_rowwise(fmt::format("rope of width {}", width), [&](std::int64_t first, std::int64_t rows) {
      const Tensor a = rows_of(x, first, rows).view({rows, 1, width}), y = device.empty({rows, 1, width});
      rope_forward(device, rope, Sequences::at(positions(device, 100 + first, rows)), a, y);
      return y;
    });
  }
}

TEST_P(RowwiseTest, RowsWithPositionsOfTheirOwnAreRotatedAsInTheirSequence) {
  Device& device = *made;
  const Rope rope{.inverse_frequencies = {1, 0.3f}, .position_offset = 1};
  const Tensor x = to_device(device, random_array({9, 2, 4}, 1)), whole = device.empty(x.shape());
  rope_forward(device, rope, Sequences({9}), x, whole);
  const Tensor rest = device.empty({4, 2, 4});
  rope_forward(device, rope, Sequences::at(positions(device, 5, 4)), rows_of(x, 5, 4), rest);
  EXPECT_EQ(to_host(device, rest).values, to_host(device, rows_of(whole, 5, 4)).values);
}

}  // namespace
}  // namespace mtp::ops::test
