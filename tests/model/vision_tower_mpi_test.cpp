#include "mtp/model/vision_tower.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "mtp/model/joint.h"
#include "mtp/model/parameters.h"
#include "mtp/ops/cross_entropy.h"
#include "support/error_of.h"
#include "support/source_dir.h"

namespace mtp::model {
namespace {

using testing::Each;

constexpr std::int64_t image = 92;                    // of the fixtures
constexpr std::int64_t patch_bytes = 12, width = 24;  // pixels of a patch, and the text model's hidden size

/// A seeing pair of the fixtures on one rank, and a text of 7 rows of which 2 are an image's.
class VisionTowerTest : public testing::Test {
 protected:
  VisionTowerTest() {
    const auto fixture = test::source_dir() / "tests" / "fixtures" / "e4b_vision";
    settings.model = {.base = fixture / "base", .drafter = fixture / "drafter"};
    settings.drafter.rounds = 2;
    grids.add({6, 3});
    for (std::int64_t i = 0; i < grids.rows() * patch_bytes; ++i)
      bytes.push_back(static_cast<std::uint8_t>(37 * i % 256));
  }

  struct Loaded {
    Loaded(Device& device, const parallel::Communicator& communicator, const Settings& settings)
        : pair(settings, {.vision = true}),
          sharding{.device = device, .communicator = communicator},
          parameters(pair.table, sharding),
          joint(device, settings, pair) {
      parameters.load(pair, device);
    }
    const ImageEncoder& tower() const { return *pair.base.vision(); }

    Pair pair;
    parallel::Sharding sharding;
    Parameters parameters;
    Joint joint;
  };
  Loaded loaded() { return Loaded(device, communicator, settings); }

  LossSums losses(Loaded& pair) {
    JointInput input{.sequences = sequences, .ids = ids, .labels = labels, .some_have_images = true};
    input.images.emplace(grids, bytes, rows);
    return pair.joint.forward_backward(input, 2);
  }

  Device device{1};
  parallel::Communicator communicator;
  Settings settings;
  const ops::Sequences sequences{{7}};
  std::vector<std::int64_t> ids{3, 4, image, image, 5, 6, 7};
  std::vector<std::int64_t> labels{4, ops::no_label, ops::no_label, ops::no_label, 6, 7, 8};
  std::vector<std::int64_t> rows{2, 3};
  ops::PatchGrids grids;
  std::vector<std::uint8_t> bytes;
};

TEST_F(VisionTowerTest, FrozenItKeepsNoActivationsAndNoMoments) {
  const Loaded pair = loaded();
  EXPECT_FALSE(pair.tower().trained());
  for (const auto& unit : pair.parameters.units())
    if (unit->name().starts_with("base.vision")) {
      EXPECT_TRUE(unit->moment1().empty() && unit->moment2().empty()) << unit->name();
    }
  const std::int64_t before = device.memory_in_use();
  const VisionPass pass(device, pair.tower(), ImageInput{grids, bytes, rows}, {.recording = pair.tower().trained()});
  const Tensor &features = pass.soft_tokens()->features_RH.data, &places = pass.soft_tokens()->rows;
  EXPECT_EQ(features.shape(), (Shape{2, width}));
  const std::int64_t kept = features.elements() * 4 + places.elements() * 8;
  EXPECT_LE(device.memory_in_use() - before, kept + 2 * 256) << "beside the soft tokens and their rows";
}

TEST_F(VisionTowerTest, OneThatIsTrainedGetsZerosOfAMicroBatchWithoutImages) {
  settings.freeze.vision = settings.freeze.vision_projector = false;
  Loaded pair = loaded();
  std::vector<std::int64_t> text = ids;
  std::ranges::replace(text, image, std::int64_t{9});
  pair.joint.forward_backward({.sequences = sequences, .ids = text, .labels = labels}, 2);
  int units = 0;
  for (const auto& unit : pair.parameters.units()) {
    if (!unit->name().starts_with("base.vision")) continue;
    const Tensor& sum = unit->gradient_sum();
    EXPECT_THAT(std::span(sum.f32(), static_cast<std::size_t>(sum.elements())), Each(0.0f)) << unit->name();
    ++units;
  }
  EXPECT_EQ(units, 4);  // patches, two layers, the projector
}

TEST_F(VisionTowerTest, WhatComesBeforeAnImageDoesNotSeeIt) {
  Loaded pair = loaded();
  std::ranges::fill(labels, ops::no_label);
  labels[0] = 4;
  settings.drafter.loss_weight = 0;
  const double of_one = losses(pair).base;
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(255 - byte);
  EXPECT_EQ(losses(pair).base, of_one);
  labels[5] = 7;
  const double behind = losses(pair).base;
  bytes[5] ^= 0x80;
  EXPECT_NE(losses(pair).base, behind);
}

TEST_F(VisionTowerTest, ATowerThatIsNotThereCannotBeTrained) {
  const auto text = test::source_dir() / "tests" / "fixtures" / "e4b";
  settings.model = {.base = text / "base", .drafter = text / "drafter"};
  settings.freeze.vision = false;
  EXPECT_EQ(test::error_of([&] { Pair{settings}; }),
            "setting freeze.vision: " + (text / "base" / "config.json").string() +
                " has no vision_config: there is nothing of it to train");
}

}  // namespace
}  // namespace mtp::model
