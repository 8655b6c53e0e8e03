#include "mtp/data/loader.h"

#include <gmock/gmock.h>

#include <optional>

#include "mtp/ops/cross_entropy.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/write_data.h"

namespace mtp::data {
namespace {

using ops::no_label;
using testing::ElementsAre;
using testing::HasSubstr;

class LoaderTest : public testing::Test {
 protected:
  /// Ten samples; sample i has i % 3 + 2 tokens, all of them i.
  LoaderTest() {
    for (std::int32_t i = 0; i < 10; ++i) parts.add(std::vector<std::int32_t>(i % 3 + 2, i));
  }
  const DataFile& file() {
    if (!file_) {
      test::write_data(path, parts);
      file_.emplace(path);
    }
    return *file_;
  }
  static Sampler sampler() { return Sampler({.samples = 10, .global_batch = 4}); }
  /// The first id of each micro-batch, which names its first sample.
  static std::vector<std::int64_t> first_ids(const std::vector<MicroBatch>& batches) {
    std::vector<std::int64_t> ids;
    for (const MicroBatch& batch : batches) ids.push_back(batch.ids[0]);
    return ids;
  }

  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "data.h5";
  test::DataParts parts;
  std::optional<DataFile> file_;
};

TEST_F(LoaderTest, AMicroBatchPacksSequencesAndAsksForTheNextTarget) {
  parts = {};
  parts.add({5, 6, 7, 8}, {1, 0, 1, 1});
  parts.add({9, 10}, {0, 1});
  const std::vector<std::int64_t> samples{1, 0};
  const MicroBatch batch = make_micro_batch(file(), samples, {});
  EXPECT_EQ(batch.sequences.count(), 2);
  EXPECT_EQ(batch.sequences.length(0), 1);
  EXPECT_EQ(batch.sequences.length(1), 3);
  EXPECT_THAT(batch.ids, ElementsAre(9, 5, 6, 7));
  EXPECT_THAT(batch.labels, ElementsAre(10, no_label, 7, 8));
  EXPECT_EQ(batch.label_tokens(), 3);
}

TEST_F(LoaderTest, MaxLengthCutsTheTokensOfASample) {
  parts = {};
  parts.add({5, 6, 7, 8});
  const MicroBatch batch = make_micro_batch(file(), std::vector<std::int64_t>{0}, {.max_length = 3});
  EXPECT_THAT(batch.ids, ElementsAre(5, 6));
  EXPECT_THAT(batch.labels, ElementsAre(6, 7));
}

TEST_F(LoaderTest, ASampleWithAnImageTokenIsRefusedByName) {
  EXPECT_EQ(test::error_of([&] {
              make_micro_batch(file(), std::vector<std::int64_t>{2, 3}, {.refused_ids = {90, 3}});
            }),
            path.string() + ": sample 3: token 0 is 3, an image, video or audio token, which cannot be trained on yet");
}

TEST_F(LoaderTest, GivesEveryStepsMicroBatchesInOrder) {
  Loader loader(file(), sampler(), {.micro_batch = 2, .end_step = 3});
  const auto first = loader.next();
  EXPECT_THAT(first_ids(first), ElementsAre(0, 2));
  EXPECT_THAT(first[0].ids, ElementsAre(0, 1, 1));
  EXPECT_THAT(first_ids(loader.next()), ElementsAre(4, 6));
  EXPECT_THAT(first_ids(loader.next()), ElementsAre(8, 0));
}

TEST_F(LoaderTest, RanksTakeConsecutiveMicroBatchesInTurn) {
  Loader first(file(), sampler(), {.rank = 0, .ranks = 2, .end_step = 2});
  Loader second(file(), sampler(), {.rank = 1, .ranks = 2, .end_step = 2});
  EXPECT_THAT(first_ids(first.next()), ElementsAre(0, 2));
  EXPECT_THAT(first_ids(second.next()), ElementsAre(1, 3));
  EXPECT_THAT(first_ids(first.next()), ElementsAre(4, 6));
  EXPECT_THAT(first_ids(second.next()), ElementsAre(5, 7));
}

TEST_F(LoaderTest, AResumedRunGoesOnWithTheSameSamples) {
  const Sampler shuffled({.samples = 10, .global_batch = 4, .shuffle = true, .seed = 7});
  Loader whole(file(), shuffled, {.end_step = 6});
  for (int step = 0; step < 4; ++step) whole.next();
  Loader resumed(file(), shuffled, {.first_step = 4, .end_step = 6});
  for (int step = 4; step < 6; ++step) EXPECT_EQ(first_ids(resumed.next()), first_ids(whole.next()));
}

TEST_F(LoaderTest, HowFarItReadsAheadDoesNotMatter) {
  for (const std::int64_t prefetch : {1, 3, 100}) {
    Loader loader(file(), sampler(), {.prefetch = prefetch, .end_step = 2});
    EXPECT_THAT(first_ids(loader.next()), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(first_ids(loader.next()), ElementsAre(4, 5, 6, 7));
  }
}

TEST_F(LoaderTest, AFaultInReadingReachesTheStepThatNeedsTheSample) {
  parts.tokens[parts.offsets[6]] = 1000;
  Loader loader(file(), sampler(), {.prefetch = 100, .end_step = 2});
  EXPECT_THAT(first_ids(loader.next()), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(test::error_of([&] { loader.next(); }), HasSubstr("sample 6: token 0 is 1000, outside the vocabulary"));
}

TEST_F(LoaderTest, StopsWhileItWaitsForRoomOrHasNothingToRead) {
  Loader full(file(), sampler(), {.prefetch = 1, .end_step = 1000000});
  full.next();
  Loader done(file(), sampler(), {.end_step = 0});
}

}  // namespace
}  // namespace mtp::data
