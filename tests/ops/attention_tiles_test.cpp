// The part of the GPU's attention that a machine without one can check in full: which tiles its kernels visit.

#include "../../src/ops/cuda/attention_tiles.h"

#include <gtest/gtest.h>

#include <vector>

namespace mtp::ops::cuda {
namespace {

using Kind = AttentionMask::Kind;

std::vector<AttentionMask> masks() {
  std::vector<AttentionMask> all{{Kind::everything}};
  for (const std::int64_t window : {0, 1, 3, 4, 9, 1000})
    for (const std::int64_t offset : {0, 1, 2}) all.push_back({Kind::causal, window, offset});
  for (const std::int64_t window : {0, 1, 3, 9, 1000}) all.push_back({Kind::mirrored, window});
  all.push_back({Kind::causal, std::int64_t{1} << 40});
  return all;
}

/// body(band, mask, length) for every mask and short sequence, of causal ones also with blocks.
template <typename Body>
void for_each_band(const Body& body) {
  for (const AttentionMask& of_kind : masks())
    for (int length = 1; length <= 14; ++length)
      for (const std::int64_t rows_of_block : {0, 1, 3, 6}) {
        if (rows_of_block > 0 && (of_kind.kind != Kind::causal || of_kind.offset != 0)) continue;
        std::vector<std::int64_t> ids(length);
        for (int t = 0; t < length; ++t) ids[t] = t % 7 < rows_of_block;
        const std::vector<std::int64_t> blocks = blocks_of(Sequences({length}), ids, std::vector<std::int64_t>{1});
        AttentionMask mask = of_kind;
        if (rows_of_block > 0) mask.blocks = blocks.data();
        SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(mask.kind) << ", window " << mask.window
                                        << ", offset " << mask.offset << ", length " << length << ", blocks of "
                                        << rows_of_block);
        body(Band(mask, length), mask, length);
      }
}

/// body(tile) for every range of rows.
template <typename Body>
void for_each_range(int length, const Body& body) {
  for (int begin = 0; begin < length; ++begin)
    for (int end = begin + 1; end <= length; ++end) body(Range{begin, end});
}

bool any_sees(const Band& band, Range queries, Range keys) {
  for (int t = queries.begin; t < queries.end; ++t)
    for (int j = keys.begin; j < keys.end; ++j)
      if (band.sees(t, j)) return true;
  return false;
}

TEST(AttentionTiles, BandsHoldTheKeysOfTheMask) {
  for_each_band([](const Band& band, const AttentionMask& mask, int length) {
    for (int t = 0; t < length + 3; ++t)
      for (int j = 0; j < length + 3; ++j)
        ASSERT_EQ(band.sees(t, j), t < length && j < length && j >= mask.begin(t, length) && j < mask.end(t, length))
            << "query " << t << ", key " << j;
  });
}

TEST(AttentionTiles, VisitedKeysAreThoseThatAnyQuerySees) {
  for_each_band([](const Band& band, const AttentionMask&, int length) {
    for_each_range(length, [&](Range queries) {
      const Range keys = band.keys_of(queries);
      ASSERT_TRUE(0 <= keys.begin && keys.begin <= keys.end && keys.end <= length);
      for (int j = 0; j < length; ++j)
        if (j < keys.begin || j >= keys.end) {
          ASSERT_FALSE(any_sees(band, queries, {j, j + 1})) << "key " << j;
        }
      // Nothing is visited in vain: the outer keys are seen.
      if (keys.size() > 0 && any_sees(band, queries, {0, length})) {
        ASSERT_TRUE(any_sees(band, queries, {keys.begin, keys.begin + 1}));
        ASSERT_TRUE(any_sees(band, queries, {keys.end - 1, keys.end}));
      }
    });
  });
}

TEST(AttentionTiles, VisitedQueriesAreThoseThatSeeAnyKey) {
  for_each_band([](const Band& band, const AttentionMask&, int length) {
    for_each_range(length, [&](Range keys) {
      const Range queries = band.queries_of(keys);
      ASSERT_TRUE(0 <= queries.begin && queries.begin <= queries.end && queries.end <= length);
      for (int t = 0; t < length; ++t)
        if (t < queries.begin || t >= queries.end) {
          ASSERT_FALSE(any_sees(band, {t, t + 1}, keys)) << "query " << t;
        }
      if (queries.size() > 0 && any_sees(band, {0, length}, keys)) {
        ASSERT_TRUE(any_sees(band, {queries.begin, queries.begin + 1}, keys));
        ASSERT_TRUE(any_sees(band, {queries.end - 1, queries.end}, keys));
      }
    });
  });
}

TEST(AttentionTiles, NothingIsMaskedOnlyWhereAllSeeAll) {
  for_each_band([](const Band& band, const AttentionMask&, int length) {
    for_each_range(length + 2, [&](Range queries) {
      for_each_range(length + 2, [&](Range keys) {
        bool all = true;
        for (int t = queries.begin; t < queries.end; ++t)
          for (int j = keys.begin; j < keys.end; ++j) all = all && band.sees(t, j);
        ASSERT_EQ(band.all_see_all(queries, keys), all)
            << "queries " << queries.begin << " … " << queries.end << ", keys " << keys.begin << " … " << keys.end;
      });
    });
  });
}

}  // namespace
}  // namespace mtp::ops::cuda
