#include "mtp/data/audio_sets.h"

#include <gmock/gmock.h>

#include <cmath>

#include "mtp/data/batch.h"
#include "mtp/data/prompts_file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/write_data.h"

namespace mtp::data {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr std::int32_t sound = 80;

/// Sample 0 has a clip of 3 frames and 2 tokens, sample 1 none, sample 2 one of 1 frame and one of 4 frames.
class AudioSetsTest : public testing::Test {
 protected:
  AudioSetsTest() {
    parts.add_clip(3, 1.5f);
    parts.add({sound, sound, 7, 8}, {0, 0, 0, 1});
    parts.add({5, 6});
    parts.add_clip(1, -2);
    parts.add_clip(4, 0.25f);
    parts.add({4, sound, 3, sound, sound, 9}, {0, 0, 0, 0, 0, 1});
  }

  DataFile file() {
    test::write_data(path, parts);
    return DataFile(path);
  }
  /// What opening the changed file, or reading all of it, says after its name.
  std::string refusal(std::int64_t max_length = 0) {
    const std::string message = test::error_of([&] {
      const DataFile data = file();
      for (std::int64_t i = 0; i < data.samples(); ++i) data.sample(i, max_length);
      if (max_length == 0) data.check_all();
    });
    return message.starts_with(path.string()) ? message.substr(path.string().size()) : message;
  }
  std::string refused_with(const std::function<void(test::DataParts&)>& change) {
    const test::DataParts before = parts;
    change(parts);
    const std::string message = refusal();
    parts = before;
    return message;
  }

  test::TempDir dir;
  std::filesystem::path path = dir.path() / "data.h5";
  test::DataParts parts;
};

TEST_F(AudioSetsTest, AMicroBatchHasTheClipsOfItsSamplesAndTheRowsOfTheirTokens) {
  const MicroBatch batch = make_micro_batch(file(), std::vector<std::int64_t>{1, 2, 0}, {});
  EXPECT_THAT(batch.ids, ElementsAre(5, 4, sound, 3, sound, sound, sound, sound, 7));
  EXPECT_THAT(batch.clips.lengths, ElementsAre(1, 4, 3));
  EXPECT_THAT(batch.clips.rows, ElementsAre(2, 4, 5, 6, 7));
  ASSERT_EQ(batch.clips.frames.size(), 24);
  EXPECT_THAT(std::span(batch.clips.frames).first(3), Each(-2.0f));
  EXPECT_THAT(std::span(batch.clips.frames).last(9), Each(1.5f));
}

TEST_F(AudioSetsTest, ClipsWhoseTokensAreCutOffAreNotRead) {
  const MicroBatch batch = make_micro_batch(file(), std::vector<std::int64_t>{2}, {.max_length = 3});
  EXPECT_THAT(batch.clips.lengths, ElementsAre(1));
  EXPECT_THAT(batch.clips.rows, ElementsAre(1));
}

TEST_F(AudioSetsTest, ACutThroughAClipIsRefused) {
  EXPECT_EQ(refusal(5), ": sample 2: data.max_length cuts through a clip of sound, cut it elsewhere");
  EXPECT_EQ(refusal(3), "no error");
}

TEST_F(AudioSetsTest, WhatLiesAboutItsClipsIsRefused) {
  EXPECT_EQ(refusal(), "no error");
  const auto with = [&](auto change) { return refused_with(change); };
  EXPECT_EQ(with([](auto& p) { p.audio_token_id = 100; }),
            ": attribute audio_token_id is 100, outside the vocabulary of 100");
  EXPECT_EQ(with([](auto& p) { p.frames_per_audio_token = 0; }),
            ": attribute frames_per_audio_token is 0, it must be 1 to 1000000");
  EXPECT_EQ(with([](auto& p) { p.audio_offsets[2] = 3; }), ": clip 1 has no frames");
  EXPECT_EQ(with([](auto& p) { p.audio_offsets[3] = 9; }),
            ": dataset audio_features must have two dimensions and 9 rows");
  EXPECT_EQ(with([](auto& p) { p.sample_audios[3] = 4; }), ": sample_audios ends at 4, the file has 3 clips");
  EXPECT_EQ(with([](auto& p) { p.audio_features[10] = NAN; }),
            ": clip 1 has numbers that are not finite; prepare the file anew");
  EXPECT_EQ(with([](auto& p) { p.tokens[0] = 7; }),
            ": sample 0: its audio tokens are not those of its 1 clips; prepare the file anew");
  EXPECT_EQ(with([](auto& p) { p.loss_mask[1] = 1; }),
            ": sample 0: token 1 is a clip of sound's and a target, which none of these can be");
}

TEST_F(AudioSetsTest, ABaseThatDoesNotTakeTheClipsIsNamed) {
  const AudioInput base{.audio_token_id = sound, .frames_per_token = 2, .frame_size = 3};
  file().check_audio("b", base);
  EXPECT_EQ(test::error_of([&] { file().check_audio("b", std::nullopt); }),
            path.string() + " has sound, which the base b does not take: it has no audio_config");
  AudioInput other = base;
  other.frame_size = 640;
  EXPECT_EQ(test::error_of([&] { file().check_audio("b", other); }),
            path.string() +
                ": made for audio token 80, 2 frames a token and 3 numbers a frame, the base has 80, 2 and "
                "640; prepare it with the base's processor");
}

TEST_F(AudioSetsTest, SummaryCountsClips) {
  const Summary summary = file().check_all();
  EXPECT_EQ(summary.clips, 3);
  EXPECT_EQ(summary.frames, 8);
}

TEST_F(AudioSetsTest, PromptsSound) {
  hdf5::File out = hdf5::File::create(path);
  out.set_attribute("format", parts.format);
  out.set_attribute("version", parts.version);
  out.set_attribute("vocab_size", parts.vocab_size);
  out.set_attribute("pad_token_id", parts.pad_token_id);
  test::write_dataset(out, "tokens", parts.tokens);
  test::write_dataset(out, "offsets", parts.offsets);
  test::write_audio(out, parts);
  out.close();
  const PromptsFile prompts(path);
  EXPECT_THAT(prompts.prompt(0, std::vector<std::int64_t>{sound}), ElementsAre(sound, sound, 7, 8));
  EXPECT_TRUE(prompts.clips(1).lengths.empty());
  EXPECT_THAT(prompts.clips(2).lengths, ElementsAre(1, 4));
  EXPECT_THAT(prompts.clips(2).rows, ElementsAre(1, 3, 4));
}

}  // namespace
}  // namespace mtp::data
