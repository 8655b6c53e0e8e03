#include "mtp/model/make_pair.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <regex>
#include <set>

#include "mtp/model/pair.h"
#include "support/error_of.h"
#include "support/source_dir.h"
#include "support/temp_dir.h"

namespace mtp::model {

using hf::Preset;
using hf::presets;

namespace {

class MakePairTest : public testing::Test {
 protected:
  Pair make(std::uint64_t seed, const std::string& name) {
    make_pair(presets().front(), seed, dir.path() / name);
    Settings settings;
    settings.model = {.base = dir.path() / name / "base", .drafter = dir.path() / name / "drafter"};
    return Pair(settings);
  }
  static std::vector<float> values(const hf::TensorFiles& files, const std::string& name) {
    std::vector<float> all(num_elements(files.info(name).shape));
    files.read(name, 0, all);
    return all;
  }
  static double deviation(const hf::TensorFiles& files, const std::string& name) {
    const std::vector<float> all = values(files, name);
    return std::sqrt(std::inner_product(all.begin(), all.end(), all.begin(), 0.0) / static_cast<double>(all.size()));
  }

  struct Shapes {
    hf::BaseConfig base;
    hf::DrafterConfig drafter;
  };
  /// A preset as it is read back, without its weights.
  Shapes shapes(const std::string& name) {
    const auto preset = std::ranges::find(presets(), name, &Preset::name);
    for (const auto& [part, json] : {std::pair("base", preset->base), {"drafter", preset->drafter}}) {
      std::filesystem::create_directories(dir.path() / name / part);
      write_json(dir.path() / name / part / "config.json", json);
    }
    Shapes shapes{hf::read_base_config(dir.path() / name / "base"),
                  hf::read_drafter_config(dir.path() / name / "drafter")};
    hf::check_fit(shapes.base, shapes.drafter);
    return shapes;
  }
  static bool is_of_real_shape(const Preset& preset) { return preset.base["text_config"]["vocab_size"] == 262144; }
  /// Buffers are left out.
  static std::int64_t parameters(const std::vector<TensorRecord>& tensors) {
    std::int64_t sum = 0;
    for (const TensorRecord& tensor : tensors)
      if (tensor.dtype == "F32" && !tensor.name.ends_with("layer_scalar")) sum += num_elements(tensor.shape);
    return sum;
  }
  /// Names without layer numbers.
  static std::set<std::string> tensor_kinds(const auto& config) {
    std::set<std::string> kinds;
    for (const TensorRecord& tensor : tensors_of(config))
      kinds.insert(std::regex_replace(tensor.name, std::regex("[0-9]+"), "N"));
    return kinds;
  }

  test::TempDir dir;
};

TEST_F(MakePairTest, EverySmallPresetIsAPairThatFits) {
  for (const Preset& preset : presets()) {
    if (is_of_real_shape(preset)) continue;
    make_pair(preset, 0, dir.path() / preset.name);
    Settings settings;
    settings.model = {.base = dir.path() / preset.name / "base", .drafter = dir.path() / preset.name / "drafter"};
    const Pair pair(settings);
    const std::int64_t ordered = pair.drafter_config.use_ordered_embeddings ? pair.base_config.text.vocab_size : 0;
    EXPECT_EQ(static_cast<std::int64_t>(pair.drafter.token_ordering().size()), ordered) << preset.name;
  }
}

/// Names and shapes as tests/reference/make_released.py groups them: N for the layer's number.
std::map<std::string, Shape> ungrouped(const Json& kinds) {
  std::map<std::string, Shape> shapes;
  for (const auto& [name, groups] : kinds.items()) {
    const std::size_t number = name.find(".N.");
    if (number == std::string::npos) {
      shapes[name] = groups.get<Shape>();
      continue;
    }
    for (const Json& group : groups)
      for (const std::int64_t layer : group[1])
        shapes[std::string(name).replace(number + 1, 1, std::to_string(layer))] = group[0].get<Shape>();
  }
  return shapes;
}

std::map<std::string, Shape> shapes_of(const std::vector<TensorRecord>& tensors) {
  std::map<std::string, Shape> shapes;
  for (const TensorRecord& tensor : tensors) shapes[tensor.name] = tensor.shape;
  return shapes;
}

/// A preset's config.json against a released one: absent keys have the class's defaults.
void expect_config(const Json& preset, const Json& released, const Json& text_defaults) {
  for (const auto& [key, value] : released.items())
    if (key != "text_config") {
      EXPECT_EQ(preset.value(key, value), value) << key;
    }
  Json text = text_defaults;
  text.update(preset["text_config"]);
  for (const auto& [key, value] : released["text_config"].items()) EXPECT_EQ(text.value(key, Json()), value) << key;
}

TEST_F(MakePairTest, RealShapesAreThoseOfThePublishedPairs) {
  const Json released = read_json(mtp::test::source_dir() / "tests/model/released.json");
  for (const std::string name : {"e2b", "e4b", "12b", "31b"}) {
    SCOPED_TRACE(name);
    const Preset& preset = *std::ranges::find(presets(), name, &Preset::name);
    const auto& [base, drafter] = shapes(name);
    EXPECT_EQ(shapes_of(tensors_of(base)), ungrouped(released[name]["base"]["tensors"]));
    EXPECT_EQ(shapes_of(tensors_of(drafter)), ungrouped(released[name]["drafter"]["tensors"]));
    expect_config(preset.base, released[name]["base"]["config"], released["text_config_defaults"]);
    expect_config(preset.drafter, released[name]["drafter"]["config"], released["text_config_defaults"]);
  }
}

// What the published checkpoints hold in their text decoders (towers for images and sound are not part of a preset);
// the second number is that of keys' and values' parameters of layers that share them.
TEST_F(MakePairTest, RealShapesHaveTheParametersOfThePublishedPairs) {
  const Shapes e2b = shapes("e2b"), e4b = shapes("e4b"), unified = shapes("12b"), dense = shapes("31b");
  EXPECT_EQ(parameters(tensors_of(e4b.base)), 7'463'013'376 + 55'055'616);
  EXPECT_EQ(parameters(tensors_of(e4b.drafter)), 78'517'760);
  EXPECT_EQ(parameters(tensors_of(e2b.base)), 4'628'569'344 + 18'880'512);
  EXPECT_EQ(parameters(tensors_of(e2b.drafter)), 77'731'328);
  EXPECT_EQ(parameters(tensors_of(unified.base)), 11'907'350'272);
  EXPECT_EQ(parameters(tensors_of(unified.drafter)), 422'856'960);
  EXPECT_EQ(parameters(tensors_of(dense.base)), 30'697'345'280);
  EXPECT_EQ(parameters(tensors_of(dense.drafter)), 469'518'592);
}

TEST_F(MakePairTest, RealShapesHaveTheLayersOfThePublishedPairs) {
  const hf::TextConfig e2b = shapes("e2b").base.text, e4b = shapes("e4b").base.text, unified = shapes("12b").base.text,
                       dense = shapes("31b").base.text;
  const auto describe = [](const hf::TextConfig& text) {
    std::string
        layers;  // s, f: a layer with keys and values; S, F: a layer that shares them; a bar after a store layer
    for (const hf::LayerShape& layer : text.layers) {
      layers += layer.is_sliding ? (layer.shares_kv ? 'S' : 's') : (layer.shares_kv ? 'F' : 'f');
      if (layer.is_store) layers += '|';
    }
    return layers;
  };
  EXPECT_EQ(describe(e4b), "sssssfsssssfsssssfsssss|f|SSSSSFSSSSSFSSSSSF");
  EXPECT_EQ(describe(e2b), "ssssfssssfssss|f|SSSSFSSSSFSSSSFSSSSF");
  EXPECT_EQ(describe(unified), "sssssfsssssfsssssfsssssfsssssfsssssfsssssfsssss|f|");
  EXPECT_EQ(describe(dense), "sssssfsssssfsssssfsssssfsssssfsssssfsssssfsssssfsssssfsssss|f|");
  EXPECT_EQ(e2b.layers.front().intermediate_size, 6144);
  EXPECT_EQ(e2b.layers.back().intermediate_size, 2 * 6144);  // double-wide
  EXPECT_EQ(e4b.layers.back().intermediate_size, 10240);
  EXPECT_EQ(dense.layers.front().kv_heads, 16);
  EXPECT_EQ(dense.layers.back().kv_heads, 4);
  EXPECT_TRUE(dense.layers.back().k_eq_v);
  EXPECT_EQ(dense.hidden_size_per_layer_input, 0);
}

TEST_F(MakePairTest, AMiniHasTheStructureOfItsModel) {
  for (const std::string name : {"e2b", "e4b", "12b", "31b"}) {
    const Shapes real = shapes(name), mini = shapes(name + "-mini");
    EXPECT_EQ(mini.base.text.hidden_size, real.base.text.hidden_size / 32) << name;
    EXPECT_EQ(mini.drafter.use_ordered_embeddings, real.drafter.use_ordered_embeddings) << name;
    EXPECT_EQ(tensor_kinds(mini.base), tensor_kinds(real.base)) << name;
    EXPECT_EQ(tensor_kinds(mini.drafter), tensor_kinds(real.drafter)) << name;
  }
}

TEST_F(MakePairTest, TheSeedDecidesTheWeights) {
  const Pair a = make(3, "a"), same = make(3, "same"), other = make(4, "other");
  const auto equal = [](const hf::TensorFiles& x, const hf::TensorFiles& y, const std::string& name) {
    return std::ranges::equal(x.bytes(name), y.bytes(name));
  };
  for (const std::string& name : a.base_files.names()) EXPECT_TRUE(equal(a.base_files, same.base_files, name)) << name;
  for (const std::string& name : a.drafter_files.names())
    EXPECT_TRUE(equal(a.drafter_files, same.drafter_files, name)) << name;
  EXPECT_FALSE(equal(a.base_files, other.base_files, "model.language_model.layers.0.mlp.up_proj.weight"));
  EXPECT_NE(a.drafter.token_ordering(), other.drafter.token_ordering());
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
  EXPECT_THAT(values(pair.base_files, base + "layers.0.layer_scalar"), testing::ElementsAre(1.0f));
}

TEST_F(MakePairTest, APresetThatSeesHasATowerAndAnImageProcessor) {
  make_pair(*std::ranges::find(presets(), "small-vision", &Preset::name), 0, dir.path() / "pair");
  const auto base = dir.path() / "pair/base";
  Settings settings;
  settings.model = {.base = base, .drafter = dir.path() / "pair/drafter"};
  settings.freeze.vision = settings.freeze.vision_projector = false;
  const Pair pair(settings);
  const std::string tower = "model.vision_tower.";
  EXPECT_NEAR(deviation(pair.base_files, tower + "patch_embedder.input_proj.weight"), 1 / std::sqrt(768.0), 1e-3);
  EXPECT_NEAR(deviation(pair.base_files, tower + "patch_embedder.position_embedding_table"), 0.02, 1e-3);
  EXPECT_EQ(read_json(base / "preprocessor_config.json"), Json({{"image_processor_type", "Gemma4ImageProcessor"},
                                                                {"patch_size", 16},
                                                                {"pooling_kernel_size", 2},
                                                                {"max_soft_tokens", 70}}));
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "pair/drafter/preprocessor_config.json"));
}

TEST_F(MakePairTest, NothingIsOverwritten) {
  make(0, "pair");
  for (const char* spelling : {"pair", "pair/"})
    EXPECT_EQ(test::error_of([&] { make_pair(presets().front(), 0, dir.path() / spelling); }),
              (dir.path() / "pair").string() + ": already exists; choose another --out or remove it");
}

}  // namespace
}  // namespace mtp::model
