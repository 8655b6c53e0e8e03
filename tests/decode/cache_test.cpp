#include "mtp/decode/cache.h"

#include <gtest/gtest.h>

#include "mtp/hf/presets.h"
#include "mtp/ops/rowwise.h"

namespace mtp::decode {
namespace {

constexpr std::int64_t positions = 100, most_rows = 5;

class CacheTest : public testing::Test {
 protected:
  /// The tiny preset's base: layers 0 and 1 slide, 2 is full, and the other three share.
  static hf::TextConfig tiny() { return hf::parse_base_config(hf::presets().front().base, "tiny").text; }

  /// Rows whose elements are all their position plus `shift`.
  KeyValue rows(std::int64_t layer, std::int64_t first, std::int64_t count, float shift = 0) {
    const hf::LayerShape& shape = config.layer(layer);
    const std::int64_t width = shape.kv_heads * shape.head_dim;
    std::vector<float> key, value;
    for (std::int64_t j = first; j < first + count; ++j) {
      key.insert(key.end(), width, static_cast<float>(j) + shift);
      value.insert(value.end(), width, -static_cast<float>(j) - shift);
    }
    const Shape all{count, shape.kv_heads, shape.head_dim};
    return {{device.from_host(key, all), nullptr}, {device.from_host(value, all), nullptr}};
  }
  /// Puts rows where a step puts them.
  KeyValue extend(std::int64_t layer, std::int64_t first, std::int64_t count, float shift = 0) {
    const KeyValue more = rows(layer, first, count, shift), ring = cache.ring(static_cast<int>(layer));
    const Tensor position = device.from_host({&first, 1});
    ops::put_in_ring(device, position, more.key.data, ring.key.data);
    ops::put_in_ring(device, position, more.value.data, ring.value.data);
    return ring;
  }
  void keep(std::int64_t layer, std::int64_t count) { cache.keep(static_cast<int>(layer), rows(layer, 0, count)); }
  /// The key's and the negated value's first element at position j of a ring.
  static std::vector<float> at(const KeyValue& ring, std::int64_t j) {
    const Tensor &key = ring.key.data, &value = ring.value.data;
    const std::int64_t row = j % key.size(0), width = key.size(1) * key.size(2);
    return {key.f32()[row * width], -value.f32()[row * width]};
  }
  static std::vector<float> both(float x) { return {x, x}; }

  Device device{1};
  hf::TextConfig config = tiny();
  Cache cache{device, config, positions, most_rows, DType::f32};
};

TEST_F(CacheTest, SlidingLayersHoldTheirWindowFullOnesAllAndSharingOnesNone) {
  const auto elements = [&](std::int64_t i) { return config.layer(i).kv_heads * config.layer(i).head_dim; };
  const std::int64_t window = config.sliding_window + most_rows - 1;
  EXPECT_EQ(cache.bytes(), 2 * 4 * (window * (elements(0) + elements(1)) + positions * elements(2)));
}

TEST_F(CacheTest, InBf16ItTakesHalfTheMemory) {
  EXPECT_EQ(2 * Cache(device, config, positions, most_rows, DType::bf16).bytes(), cache.bytes());
}

TEST_F(CacheTest, EveryRowThatIsSeenIsThereAfterALongPrompt) {
  for (const std::int64_t layer : {0, 2}) {
    keep(layer, 30);
    const KeyValue ring = extend(layer, 30, most_rows);
    const std::int64_t oldest = layer == 0 ? 30 - config.sliding_window + 1 : 0;
    for (std::int64_t j = oldest; j < 30 + most_rows; ++j) EXPECT_EQ(at(ring, j), both(static_cast<float>(j))) << j;
  }
}

TEST_F(CacheTest, RowsComputedAgainTakeThePlaceOfRejectedOnes) {
  keep(0, 20);
  extend(0, 20, most_rows, 0.5f);  // all but the first are rejected
  const KeyValue ring = extend(0, 21, 2);
  EXPECT_EQ(at(ring, 20), both(20.5f));
  for (const float j : {21.0f, 22.0f}) EXPECT_EQ(at(ring, static_cast<std::int64_t>(j)), both(j));
  for (std::int64_t j = 21 - config.sliding_window + 1; j < 20; ++j)
    EXPECT_EQ(at(ring, j), both(static_cast<float>(j))) << j;
}

}  // namespace
}  // namespace mtp::decode
