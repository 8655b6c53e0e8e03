// What a unified base sees and hears with.

#include <gmock/gmock.h>

#include <algorithm>

#include "mtp/model/audio_encoder.h"
#include "mtp/model/joint.h"
#include "mtp/model/parameters.h"
#include "mtp/ops/cross_entropy.h"
#include "support/error_of.h"
#include "support/source_dir.h"

namespace mtp::model {
namespace {

using testing::Each;

constexpr std::int64_t sound = 95;                   // of the fixture
constexpr std::int64_t frame_size = 20, width = 24;  // samples of a frame, and the text model's hidden size

/// A unified pair on one rank, and a text of 7 rows of which 2 are a clip's.
class UnifiedTest : public testing::Test {
 protected:
  UnifiedTest() {
    const auto fixture = test::source_dir() / "tests" / "fixtures" / "unified";
    settings.model = {.base = fixture / "base", .drafter = fixture / "drafter"};
    settings.drafter.rounds = 2;
    settings.drafter.loss_weight = 0;
  }

  struct Loaded {
    Loaded(Device& device, const parallel::Communicator& communicator, const Settings& settings)
        : pair(settings, {.vision = true, .audio = true}),
          sharding{.device = device, .communicator = communicator},
          parameters(pair.table, sharding),
          joint(device, settings, pair) {
      parameters.load(pair, device);
    }

    Pair pair;
    parallel::Sharding sharding;
    Parameters parameters;
    Joint joint;
  };

  double loss_of(Loaded& pair) {
    JointInput input{.sequences = sequences, .ids = ids, .labels = labels, .some_have_clips = true};
    input.clips = ClipInput{lengths, frames, rows};
    return pair.joint.forward_backward(input, 2).base;
  }

  Device device{1};
  parallel::Communicator communicator;
  Settings settings;
  const ops::Sequences sequences{{7}};
  std::vector<std::int64_t> ids{3, 4, sound, sound, 5, 6, 7};
  std::vector<std::int64_t> labels{
      4, ops::no_label, ops::no_label, ops::no_label, ops::no_label, ops::no_label, ops::no_label};
  std::vector<std::int64_t> lengths{2}, rows{2, 3};
  std::vector<float> frames = std::vector<float>(2 * frame_size, 0.5f);
};

TEST_F(UnifiedTest, WhatIsTrainedGetsZerosOfAMicroBatchOfTextAlone) {
  settings.freeze.vision = settings.freeze.vision_projector = settings.freeze.audio_projector = false;
  Loaded pair(device, communicator, settings);
  const std::vector<std::int64_t> text{3, 4, 9, 9, 5, 6, 7};
  pair.joint.forward_backward({.sequences = sequences, .ids = text, .labels = labels}, 2);
  std::vector<std::string> units;
  for (const auto& unit : pair.parameters.units()) {
    if (!unit->name().starts_with("base.vision") && !unit->name().starts_with("base.audio")) continue;
    const Tensor& sum = unit->gradient_sum();
    EXPECT_THAT(std::span(sum.f32(), static_cast<std::size_t>(sum.elements())), Each(0.0f)) << unit->name();
    units.push_back(unit->name());
  }
  EXPECT_THAT(units, testing::UnorderedElementsAre("base.vision.patch_embedder", "base.vision.projector",
                                                   "base.audio.projector"));
}

TEST_F(UnifiedTest, OnlyWhatComesAfterASoundHearsIt) {
  Loaded pair(device, communicator, settings);
  const double before = loss_of(pair);
  frames[3] = -0.75f;
  EXPECT_EQ(loss_of(pair), before);
  labels[4] = 7;
  const double behind = loss_of(pair);
  frames[3] = 0.5f;
  EXPECT_NE(loss_of(pair), behind);
}

TEST_F(UnifiedTest, SilenceIsZeros) {
  const Loaded pair(device, communicator, settings);
  std::ranges::fill(frames, 0.0f);
  const AudioPass pass(device, *pair.pair.base.audio(), ClipInput{lengths, frames, rows}, {.recording = false});
  const Tensor& features = pass.soft_tokens()->features_RH.data;
  ASSERT_EQ(features.shape(), (Shape{2, width}));
  EXPECT_THAT(std::span(features.f32(), 2 * width), Each(0.0f));
}

TEST_F(UnifiedTest, ABaseThatTakesNoSoundCannotBeTrainedOnIt) {
  const auto text = test::source_dir() / "tests" / "fixtures" / "e4b";
  settings.model = {.base = text / "base", .drafter = text / "drafter"};
  settings.freeze.audio_projector = false;
  EXPECT_EQ(test::error_of([&] { Pair{settings}; }),
            "setting freeze.audio_projector: " + (text / "base" / "config.json").string() +
                " takes no sound: there is nothing of it to train");
}

}  // namespace
}  // namespace mtp::model
