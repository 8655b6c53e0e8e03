#include "mtp/decode/cache.h"

#include <gtest/gtest.h>

#include <optional>

#include "mtp/hf/presets.h"

namespace mtp::decode {
namespace {

constexpr std::int64_t texts = 3, text = 1, positions = 100, most_rows = 5;

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
    const KeyValue more = rows(layer, first, count, shift), rings = cache->rings(static_cast<int>(layer));
    for (const auto& [from, to] : {std::pair(more.key.data, rings.key.data), {more.value.data, rings.value.data}}) {
      const std::int64_t width = to.size(2) * to.size(3);
      for (std::int64_t i = 0; i < count; ++i)
        device.copy(from.slice(i * width, {width}), to.slice(row_of(to, first + i) * width, {width}));
    }
    return rings;
  }
  void keep(std::int64_t layer, std::int64_t count) {
    cache->keep(static_cast<int>(layer), text, rows(layer, 0, count));
  }
  static std::int64_t row_of(const Tensor& rings, std::int64_t j) { return text * rings.size(1) + j % rings.size(1); }
  /// The key's and the negated value's first element at position j of the text.
  static std::vector<float> at(const KeyValue& rings, std::int64_t j) {
    const Tensor &key = rings.key.data, &value = rings.value.data;
    const std::int64_t element = row_of(key, j) * key.size(2) * key.size(3);
    return {key.f32()[element], -value.f32()[element]};
  }
  static std::vector<float> both(float x) { return {x, x}; }

  Device device{1};
  const Cache::Size size{texts, positions, most_rows};
  hf::TextConfig config = tiny();
  std::optional<Cache> cache{std::in_place, device, config, size, DType::f32};
};

TEST_F(CacheTest, SlidingLayersHoldTheirWindowFullOnesAllAndSharingOnesNone) {
  const auto elements = [&](std::int64_t i) { return config.layer(i).kv_heads * config.layer(i).head_dim; };
  const std::int64_t window = config.sliding_window + most_rows - 1;
  EXPECT_EQ(cache->bytes(), texts * 2 * 4 * (window * (elements(0) + elements(1)) + positions * elements(2)));
}

TEST_F(CacheTest, InBf16ItTakesHalfTheMemory) {
  EXPECT_EQ(2 * Cache(device, config, size, DType::bf16).bytes(), cache->bytes());
}

TEST_F(CacheTest, EveryRowThatIsSeenIsThereAfterALongPrompt) {
  for (const std::int64_t layer : {0, 2}) {
    keep(layer, 30);
    const KeyValue ring = extend(layer, 30, most_rows);
    const std::int64_t oldest = layer == 0 ? 30 - config.sliding_window + 1 : 0;
    for (std::int64_t j = oldest; j < 30 + most_rows; ++j) EXPECT_EQ(at(ring, j), both(static_cast<float>(j))) << j;
  }
}

TEST_F(CacheTest, WhatIsHeldStaysWhereThereIsMoreRoom) {
  for (const std::int64_t before : {7, 9, 11, 100}) {  // about a window of 8 and the rows beside it
    cache.emplace(device, config, Cache::Size{texts, before, most_rows}, DType::f32);
    for (const std::int64_t layer : {0, 2}) keep(layer, 7);
    cache->reserve(positions + before);
    EXPECT_EQ(cache->positions(), positions + before);
    for (const std::int64_t layer : {0, 2}) {
      const KeyValue rings = extend(layer, 7, 3);
      for (std::int64_t j = layer == 0 ? 2 : 0; j < 10; ++j)
        EXPECT_EQ(at(rings, j), both(static_cast<float>(j))) << "position " << j << " of room for " << before;
    }
    EXPECT_EQ(cache->bytes(), Cache(device, config, {texts, positions + before, most_rows}, DType::f32).bytes());
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
