#include <gmock/gmock.h>

#include "mtp/model/audio_encoder.h"
#include "mtp/model/joint.h"
#include "mtp/model/parameters.h"
#include "mtp/ops/cross_entropy.h"
#include "support/source_dir.h"

namespace mtp::model {
namespace {

using testing::Each;
using testing::FloatNear;
using testing::Pointwise;

constexpr std::int64_t frame_size = 8, width = 24;  // of the fixture's frames, and the text model's hidden size

/// A hearing pair of the fixtures on one rank, and two clips of 5 and 23 frames.
class AudioTowerTest : public testing::Test {
 protected:
  AudioTowerTest() {
    const auto fixture = test::source_dir() / "tests" / "fixtures" / "e4b_audio";
    settings.model = {.base = fixture / "base", .drafter = fixture / "drafter"};
    settings.drafter.rounds = 2;
    for (int i = 0; i < 28 * frame_size; ++i) frames.push_back(static_cast<float>(i * 37 % 100) / 20.0f - 3);
  }

  struct Loaded {
    Loaded(Device& device, const parallel::Communicator& communicator, const Settings& settings)
        : pair(settings, {.audio = true}),
          sharding{.device = device, .communicator = communicator},
          parameters(pair.table, sharding),
          joint(device, settings, pair) {
      parameters.load(pair, device);
    }
    const AudioEncoder& tower() const { return *pair.base.audio(); }

    Pair pair;
    parallel::Sharding sharding;
    Parameters parameters;
    Joint joint;
  };

  /// Of clips whose frames are these.
  std::vector<float> soft_tokens(const Loaded& pair, const std::vector<std::int64_t>& lengths,
                                 std::span<const float> of_clips) {
    std::int64_t count = 0;
    for (const std::int64_t length : lengths) count += pair.tower().soft_tokens(length);
    const std::vector<std::int64_t> rows(count);
    const AudioPass pass(device, pair.tower(), ClipInput{lengths, of_clips, rows}, {.recording = false});
    const Tensor& features = pass.soft_tokens()->features_RH.data;
    EXPECT_EQ(features.shape(), (Shape{count, width}));
    return {features.f32(), features.f32() + features.elements()};
  }

  Device device{1};
  parallel::Communicator communicator;
  Settings settings;
  std::vector<float> frames;
};

TEST_F(AudioTowerTest, SoftTokensOfAClipDoNotDependOnTheOthers) {
  const Loaded pair(device, communicator, settings);
  EXPECT_FALSE(pair.tower().trained());
  const std::vector<float> both = soft_tokens(pair, {5, 23}, frames);
  std::vector<float> alone = soft_tokens(pair, {5}, std::span(frames).first(5 * frame_size));
  const std::vector<float> second = soft_tokens(pair, {23}, std::span(frames).subspan(5 * frame_size));
  alone.insert(alone.end(), second.begin(), second.end());
  EXPECT_THAT(both, Pointwise(FloatNear(1e-5f), alone));
  EXPECT_EQ(both.size(), (2 + 6) * width);
}

TEST_F(AudioTowerTest, OneThatIsTrainedGetsZerosOfAMicroBatchWithoutSound) {
  settings.freeze.audio = settings.freeze.audio_projector = false;
  Loaded pair(device, communicator, settings);
  const ops::Sequences sequences({4});
  const std::vector<std::int64_t> ids{3, 4, 9, 5}, labels{4, 9, 5, ops::no_label};
  pair.joint.forward_backward({.sequences = sequences, .ids = ids, .labels = labels}, 2);
  int units = 0;
  for (const auto& unit : pair.parameters.units()) {
    if (!unit->name().starts_with("base.audio")) continue;
    const Tensor& sum = unit->gradient_sum();
    EXPECT_THAT(std::span(sum.f32(), static_cast<std::size_t>(sum.elements())), Each(0.0f)) << unit->name();
    ++units;
  }
  EXPECT_EQ(units, 5);  // subsampling, two layers, the output, the projector
}

}  // namespace
}  // namespace mtp::model
