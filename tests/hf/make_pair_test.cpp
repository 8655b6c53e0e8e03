#include "mtp/hf/make_pair.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "mtp/hf/pair.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

class MakePairTest : public testing::Test {
 protected:
  Pair make(std::uint64_t seed, const std::string& name) {
    make_pair(presets().front(), seed, dir.path() / name);
    Settings settings;
    settings.model = {.base = dir.path() / name / "base", .drafter = dir.path() / name / "drafter"};
    return Pair(settings);
  }
  static std::vector<float> values(const TensorFiles& files, const std::string& name) {
    std::vector<float> all(num_elements(files.info(name).shape));
    files.read(name, 0, all);
    return all;
  }
  static double deviation(const TensorFiles& files, const std::string& name) {
    const std::vector<float> all = values(files, name);
    return std::sqrt(std::inner_product(all.begin(), all.end(), all.begin(), 0.0) / static_cast<double>(all.size()));
  }

  test::TempDir dir;
};

TEST_F(MakePairTest, EveryPresetIsAPairThatFits) {
  for (const Preset& preset : presets()) {
    make_pair(preset, 0, dir.path() / preset.name);
    Settings settings;
    settings.model = {.base = dir.path() / preset.name / "base", .drafter = dir.path() / preset.name / "drafter"};
    const Pair pair(settings);
    EXPECT_TRUE(pair.table.dropped().empty()) << preset.name;
    EXPECT_EQ(pair.token_ordering.size(), static_cast<std::size_t>(pair.base_config.text.vocab_size)) << preset.name;
  }
}

TEST_F(MakePairTest, TheSeedDecidesTheWeights) {
  const Pair a = make(3, "a"), same = make(3, "same"), other = make(4, "other");
  const auto equal = [](const TensorFiles& x, const TensorFiles& y, const std::string& name) {
    return std::ranges::equal(x.bytes(name), y.bytes(name));
  };
  for (const std::string& name : a.base_files.names()) EXPECT_TRUE(equal(a.base_files, same.base_files, name)) << name;
  for (const std::string& name : a.drafter_files.names())
    EXPECT_TRUE(equal(a.drafter_files, same.drafter_files, name)) << name;
  EXPECT_FALSE(equal(a.base_files, other.base_files, "model.language_model.layers.0.mlp.up_proj.weight"));
  EXPECT_NE(a.token_ordering, other.token_ordering);
}

TEST_F(MakePairTest, NoTwoTensorsShareTheirRandomNumbers) {
  const Pair pair = make(0, "pair");
  const auto gate = values(pair.base_files, "model.language_model.layers.0.mlp.gate_proj.weight");
  const auto up = values(pair.base_files, "model.language_model.layers.0.mlp.up_proj.weight");
  EXPECT_NE(gate, up);
  const auto drafter_first = values(pair.drafter_files, "pre_projection.weight");
  const auto base_first = values(pair.base_files, "model.language_model.embed_tokens.weight");
  EXPECT_NE(drafter_first[0] * std::sqrt(128.0f), base_first[0] * std::sqrt(64.0f));
}

TEST_F(MakePairTest, WeightsKeepTheSizeOfActivations) {
  const Pair pair = make(0, "pair");
  const std::string base = "model.language_model.";
  EXPECT_NEAR(deviation(pair.base_files, base + "embed_tokens.weight"), 1 / std::sqrt(64.0), 0.002);
  EXPECT_NEAR(deviation(pair.base_files, base + "embed_tokens_per_layer.weight"), 1 / std::sqrt(8.0), 0.005);
  EXPECT_NEAR(deviation(pair.base_files, base + "layers.0.mlp.down_proj.weight"), 1 / std::sqrt(128.0), 0.002);
  EXPECT_NEAR(deviation(pair.drafter_files, "pre_projection.weight"), 1 / std::sqrt(128.0), 0.003);
  EXPECT_THAT(values(pair.base_files, base + "norm.weight"), testing::Each(1.0f));
  // Query times key of 16 normed elements: √16 · w² = 1.
  EXPECT_THAT(values(pair.base_files, base + "layers.0.self_attn.q_norm.weight"), testing::Each(0.5f));
  EXPECT_THAT(pair.base_layer_scalars, testing::Each(1.0f));
}

TEST_F(MakePairTest, NothingIsOverwritten) {
  make(0, "pair");
  for (const char* spelling : {"pair", "pair/"})
    EXPECT_EQ(test::error_of([&] { make_pair(presets().front(), 0, dir.path() / spelling); }),
              (dir.path() / "pair").string() + ": already exists; choose another --out or remove it");
}

}  // namespace
}  // namespace mtp::hf
