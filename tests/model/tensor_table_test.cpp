#include "mtp/model/tensor_table.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>

#include "hf/write_files.h"
#include "mtp/model/pair.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::model {
namespace {

namespace fs = std::filesystem;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

const std::string base_prefix = "model.language_model.";

/// A pair whose configurations, tensors and settings a test may change before it opens them. Layers 0 and 1 of the base
/// compute keys and values, layer 2 shares those of layer 1.
class TensorTableTest : public testing::Test {
 protected:
  TensorTableTest() {
    base_json = Json::parse(R"({
      "model_type": "gemma4",
      "text_config": {
        "vocab_size": 12, "hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 2, "global_head_dim": 4, "num_kv_shared_layers": 1,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "hidden_size_per_layer_input": 3, "vocab_size_per_layer_input": 12
      }
    })");
    drafter_json = Json::parse(R"({
      "model_type": "gemma4_assistant", "backbone_hidden_size": 6,
      "use_ordered_embeddings": true, "num_centroids": 4, "centroid_intermediate_top_k": 2,
      "text_config": {
        "vocab_size": 12, "hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 2, "global_head_dim": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0
      }
    })");
    settings.model = {.base = dir.path() / "base", .drafter = dir.path() / "drafter"};
    make_files();
  }

  /// Fills the lists of tensors anew, from the configurations.
  void make_files() {
    for (const auto& [path, json] :
         {std::pair(settings.model.base, base_json), {settings.model.drafter, drafter_json}}) {
      fs::create_directories(path);
      write_json(path / "config.json", json);
    }
    base_tensors = from(tensors_of(hf::read_base_config(settings.model.base)));
    drafter_tensors = from(tensors_of(hf::read_drafter_config(settings.model.drafter)));
  }
  static std::vector<test::FileTensor> from(const std::vector<TensorRecord>& records) {
    std::vector<test::FileTensor> tensors;
    for (const hf::TensorEntry& entry : entries(records)) tensors.push_back({entry});
    return tensors;
  }
  static test::FileTensor& find(std::vector<test::FileTensor>& tensors, const std::string& name) {
    const auto found = std::ranges::find_if(tensors, [&](const auto& tensor) { return tensor.entry.name == name; });
    MTP_ASSERT(found != tensors.end());
    return *found;
  }
  static void erase(std::vector<test::FileTensor>& tensors, const std::string& name) {
    std::erase_if(tensors, [&](const auto& tensor) { return tensor.entry.name == name; });
  }

  void write_files() {
    test::write_tensors(settings.model.base / "model.safetensors", base_tensors);
    test::write_tensors(settings.model.drafter / "model.safetensors", drafter_tensors);
  }
  TensorTable table() {
    write_files();
    const hf::BaseConfig base_config = hf::read_base_config(settings.model.base);
    const hf::DrafterConfig drafter_config = hf::read_drafter_config(settings.model.drafter);
    const BaseModel base(base_config, settings.freeze, {});
    const Drafter drafter(drafter_config, settings.drafter.rounds);
    const auto base_files = hf::TensorFiles::open(settings.model.base);
    const auto drafter_files = hf::TensorFiles::open(settings.model.drafter);
    return TensorTable({"base", base_config.text, base_files, base.tensors()},
                       {"drafter", drafter_config.text, drafter_files, drafter.tensors()});
  }
  /// What making the table says, without the directory in front.
  std::string refusal() {
    const std::string message = test::error_of([&] { table(); }), where = dir.path().string() + "/";
    return message.starts_with(where) ? message.substr(where.size()) : message;
  }

  test::TempDir dir;
  Json base_json, drafter_json;
  std::vector<test::FileTensor> base_tensors, drafter_tensors;
  Settings settings;
};

std::map<std::string, TensorInfo> by_name(const TensorTable& table) {
  std::map<std::string, TensorInfo> tensors;
  for (const TensorInfo& tensor : table.tensors()) tensors[tensor.name] = tensor;
  return tensors;
}

/// Units in the order in which they appear.
std::vector<std::string> units(const TensorTable& table) {
  std::vector<std::string> all;
  for (const TensorInfo& tensor : table.tensors())
    if (tensor.role != Role::carried && std::ranges::find(all, tensor.unit) == all.end()) all.push_back(tensor.unit);
  return all;
}

std::vector<std::string> names_with(const TensorTable& table, Role role) {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : table.tensors())
    if (tensor.role == role) names.push_back(tensor.name);
  return names;
}

std::vector<std::string> names_of(const TensorTable& table) {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : table.tensors()) names.push_back(tensor.name);
  return names;
}

/// A unit is exchanged as a whole, so it must not mix roles.
void expect_pure_units(const TensorTable& table) {
  std::map<std::string, Role> roles;
  for (const TensorInfo& tensor : table.tensors())
    if (tensor.role != Role::carried)
      EXPECT_EQ(roles.emplace(tensor.unit, tensor.role).first->second, tensor.role) << tensor.name;
    else
      EXPECT_EQ(tensor.unit, "") << tensor.name;
}

TEST_F(TensorTableTest, EveryTensorHasItsPlace) {
  const auto tensors = by_name(table());
  const auto expect = [&](const std::string& name, const Shape& shape, Role role, const std::string& unit) {
    ASSERT_TRUE(tensors.contains(name)) << name;
    EXPECT_EQ(tensors.at(name).shape, shape) << name;
    EXPECT_EQ(tensors.at(name).role, role) << name;
    EXPECT_EQ(tensors.at(name).unit, unit) << name;
  };
  const std::string base = "base.model.language_model.";
  expect(base + "embed_tokens.weight", {12, 6}, Role::trained, "base.embed_tokens");
  expect(base + "embed_tokens_per_layer.weight", {12, 9}, Role::trained, "base.embed_tokens_per_layer");
  expect(base + "per_layer_model_projection.weight", {9, 6}, Role::trained, "base.head");
  expect(base + "per_layer_projection_norm.weight", {3}, Role::trained, "base.head");
  expect(base + "norm.weight", {6}, Role::trained, "base.head");
  expect(base + "layers.0.self_attn.q_proj.weight", {4, 6}, Role::trained, "base.layers.0");
  expect(base + "layers.1.self_attn.k_proj.weight", {4, 6}, Role::trained, "base.layers.1");
  expect(base + "layers.1.self_attn.v_proj.weight", {4, 6}, Role::trained, "base.layers.1");
  expect(base + "layers.2.per_layer_input_gate.weight", {3, 6}, Role::trained, "base.layers.2");
  expect(base + "layers.2.layer_scalar", {1}, Role::carried, "");
  expect("drafter.pre_projection.weight", {4, 12}, Role::trained, "drafter.head");
  expect("drafter.post_projection.weight", {6, 4}, Role::trained, "drafter.head");
  expect("drafter.model.embed_tokens.weight", {12, 4}, Role::trained, "drafter.embed_tokens");
  expect("drafter.model.layers.1.self_attn.o_proj.weight", {4, 8}, Role::trained, "drafter.layers.1");
  expect("drafter.masked_embedding.centroids.weight", {4, 4}, Role::frozen, "drafter.head.frozen");
  expect("drafter.masked_embedding.token_ordering", {12}, Role::carried, "");
  EXPECT_EQ(tensors.size(), base_tensors.size() + drafter_tensors.size());
}

TEST_F(TensorTableTest, UnitsComeInTheOrderOfAForward) {
  EXPECT_THAT(units(table()),
              ElementsAre("base.embed_tokens", "base.embed_tokens_per_layer", "base.head", "base.layers.0",
                          "base.layers.1", "base.layers.2", "drafter.head", "drafter.layers.0", "drafter.layers.1",
                          "drafter.embed_tokens", "drafter.head.frozen"));
}

TEST_F(TensorTableTest, WhatFreezesIsFrozenWholeUnitsAtATime) {
  EXPECT_THAT(names_with(table(), Role::frozen), ElementsAre("drafter.masked_embedding.centroids.weight"));
  settings.drafter.rounds = 1;
  EXPECT_THAT(names_with(table(), Role::frozen),
              ElementsAre("drafter.post_projection.weight", "drafter.masked_embedding.centroids.weight"));
  expect_pure_units(table());
  settings.drafter.rounds = 4;

  settings.freeze.embeddings = true;
  EXPECT_THAT(names_with(table(), Role::frozen), ElementsAre("base.model.language_model.embed_tokens.weight",
                                                             "base.model.language_model.embed_tokens_per_layer.weight",
                                                             "drafter.masked_embedding.centroids.weight"));
  expect_pure_units(table());

  settings.freeze = {.base = true};
  EXPECT_THAT(names_with(table(), Role::trained), Not(Contains(testing::StartsWith("base."))));
  EXPECT_THAT(units(table()), Contains("base.layers.0"));
  EXPECT_THAT(units(table()), Not(Contains("base.layers.0.frozen"))) << "nothing of it is trained";
  expect_pure_units(table());
}

TEST_F(TensorTableTest, ABaseWithoutPerLayerInputsHasNoTensorsForThem) {
  base_json["text_config"]["hidden_size_per_layer_input"] = 0;
  make_files();
  EXPECT_THAT(names_of(table()), Not(Contains(testing::HasSubstr("per_layer"))));
}

TEST_F(TensorTableTest, KeysThatAreValuesNeedNoValueProjection) {
  base_json["text_config"]["attention_k_eq_v"] = true;
  make_files();
  const auto tensors = by_name(table());
  EXPECT_TRUE(tensors.contains("base.model.language_model.layers.0.self_attn.v_proj.weight"));
  EXPECT_TRUE(tensors.contains("base.model.language_model.layers.1.self_attn.k_proj.weight"));
  EXPECT_FALSE(tensors.contains("base.model.language_model.layers.1.self_attn.v_proj.weight"));
}

TEST_F(TensorTableTest, ADrafterWithoutCentroidsHasNothingFrozen) {
  drafter_json["use_ordered_embeddings"] = false;
  make_files();
  EXPECT_THAT(names_with(table(), Role::frozen), IsEmpty());
  EXPECT_THAT(names_of(table()), Not(Contains(testing::HasSubstr("masked_embedding"))));
}

TEST_F(TensorTableTest, UnusedKeysAndValuesOfSharedLayersAreCarriedInAnyShapeAndType) {
  find(base_tensors, base_prefix + "layers.2.self_attn.k_proj.weight").entry = {
      base_prefix + "layers.2.self_attn.k_proj.weight", "BF16", {9, 9}};
  drafter_tensors.push_back({{"model.layers.0.self_attn.v_proj.weight", "F32", {2, 4}}});
  const auto carried = names_with(table(), Role::carried);
  for (const std::string name :
       {"base.model.language_model.layers.2.self_attn.k_norm.weight",
        "base.model.language_model.layers.2.self_attn.k_proj.weight",
        "base.model.language_model.layers.2.self_attn.v_proj.weight", "drafter.model.layers.0.self_attn.v_proj.weight"})
    EXPECT_THAT(carried, Contains(name));
}

TEST_F(TensorTableTest, ABaseMayComeWithoutUnusedKeysAndValues) {
  for (const char* name : {"k_proj", "v_proj", "k_norm"})
    erase(base_tensors, base_prefix + "layers.2.self_attn." + name + ".weight");
  const auto names = names_of(table());
  EXPECT_THAT(names, Contains("base.model.language_model.layers.2.self_attn.q_proj.weight"));
  EXPECT_THAT(names, Not(Contains("base.model.language_model.layers.2.self_attn.k_proj.weight")));
}

TEST_F(TensorTableTest, ATextDecoderAloneHasTheSameTensorsUnderAShorterPrefix) {
  std::vector<std::string> expected = names_of(table());
  const std::string nested = "base.model.language_model.";
  for (std::string& name : expected)
    if (name.starts_with(nested)) name = "base.model." + name.substr(nested.size());
  base_json = base_json["text_config"];
  base_json["model_type"] = "gemma4_text";
  make_files();
  EXPECT_THAT(names_of(table()), testing::UnorderedElementsAreArray(expected));
}

TEST_F(TensorTableTest, AnExplicitHeadIsAcceptedOnlyWhereItSaysWhatTheTieSays) {
  std::vector<float> values(12 * 6);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  find(base_tensors, base_prefix + "embed_tokens.weight").values = values;
  base_tensors.push_back({{"lm_head.weight", "F32", {12, 6}}, values});
  EXPECT_THAT(names_of(table()), Not(Contains("base.lm_head.weight")));

  base_tensors.back().entry.dtype = "BF16";  // holds these values, too
  EXPECT_THAT(names_of(table()), Not(Contains("base.lm_head.weight")));
  base_tensors.back().entry.dtype = "F32";

  base_tensors.back().values[70] += 1;
  const std::string differs =
      "base: lm_head.weight differs from model.language_model.embed_tokens.weight; an untied output projection is not "
      "supported";
  EXPECT_EQ(refusal(), differs);
  base_tensors.back() = {{"lm_head.weight", "F32", {6, 12}}, values};
  EXPECT_EQ(refusal(), differs);
}

TEST_F(TensorTableTest, TowersAndBuffersAreCarriedInAnyTypeAndShape) {
  const std::vector<hf::TensorEntry> extra = {
      {"model.vision_tower.patch_embedder.input_proj.weight", "F8_E4M3", {3, 5}},
      {"model.audio_tower.layers.0.lconv1d.input_max", "F64", {}},
      {"model.embed_vision.embedding_projection.weight", "BF16", {2, 2}},
      {"model.embed_audio.x", "BOOL", {7}},
      {base_prefix + "rotary_emb.inv_freq", "F32", {1}}};
  for (const hf::TensorEntry& entry : extra) base_tensors.push_back({entry});
  const auto tensors = by_name(table());
  for (const hf::TensorEntry& entry : extra) {
    ASSERT_TRUE(tensors.contains("base." + entry.name)) << entry.name;
    const TensorInfo& tensor = tensors.at("base." + entry.name);
    EXPECT_EQ(tensor.role, Role::carried) << entry.name;
    EXPECT_EQ(tensor.dtype, entry.dtype) << entry.name;
    EXPECT_EQ(tensor.shape, entry.shape) << entry.name;
  }
}

TEST_F(TensorTableTest, AMissingTensorIsNamed) {
  erase(base_tensors, base_prefix + "layers.1.mlp.up_proj.weight");
  EXPECT_EQ(refusal(), "base: tensor model.language_model.layers.1.mlp.up_proj.weight is missing");
  make_files();
  erase(drafter_tensors, "post_projection.weight");
  EXPECT_EQ(refusal(), "drafter: tensor post_projection.weight is missing");
}

TEST_F(TensorTableTest, AnUnknownTensorIsNamed) {
  base_tensors.push_back({{base_prefix + "layers.3.mlp.up_proj.weight", "F32", {5, 6}}});
  EXPECT_EQ(refusal(),
            "base: tensor model.language_model.layers.3.mlp.up_proj.weight is unknown: the config has no place for it");
  make_files();
  drafter_tensors.push_back({{"model.vision_tower.x", "F32", {1}}});
  EXPECT_EQ(refusal(), "drafter: tensor model.vision_tower.x is unknown: the config has no place for it");
}

TEST_F(TensorTableTest, AMisshapenTensorIsNamedWithBothShapes) {
  find(base_tensors, base_prefix + "layers.0.mlp.up_proj.weight").entry.shape = {6, 5};
  EXPECT_EQ(refusal(),
            "base: tensor model.language_model.layers.0.mlp.up_proj.weight has shape [6, 5], the config needs [5, 6]");
  find(base_tensors, base_prefix + "layers.0.mlp.up_proj.weight").entry = {
      base_prefix + "layers.0.mlp.up_proj.weight", "I64", {5, 6}};
  EXPECT_EQ(refusal(),
            "base: tensor model.language_model.layers.0.mlp.up_proj.weight has type I64; F32, BF16 or F16 is needed");
}

TEST_F(TensorTableTest, ThePairReadsItsBuffers) {
  find(base_tensors, base_prefix + "layers.1.layer_scalar").values = {0.5f};
  find(drafter_tensors, "model.layers.0.layer_scalar") = {{"model.layers.0.layer_scalar", "BF16", {1}}, {0.25f}};
  write_files();
  EXPECT_EQ(
      test::error_of([&] { Pair pair(settings); }),
      settings.model.drafter.string() + ": tensor masked_embedding.token_ordering is no permutation of the 12 tokens");

  drafter_json["use_ordered_embeddings"] = false;
  write_json(settings.model.drafter / "config.json", drafter_json);
  erase(drafter_tensors, "masked_embedding.token_ordering");
  erase(drafter_tensors, "masked_embedding.centroids.weight");
  write_files();
  const Pair pair(settings);
  EXPECT_THAT(pair.drafter.token_ordering(), IsEmpty());
}

TEST_F(TensorTableTest, ABufferThatAModelNeedsMustBeThere) {
  erase(base_tensors, base_prefix + "layers.1.layer_scalar");
  write_files();
  EXPECT_EQ(test::error_of([&] { Pair pair(settings); }),
            settings.model.base.string() + ": tensor model.language_model.layers.1.layer_scalar is missing");
}

/// The names and shapes are Hugging Face's own: those that its save_pretrained wrote for each fixture.
class FixtureTensors : public testing::TestWithParam<std::string> {};

TEST_P(FixtureTensors, AreThoseOfTheirConfiguration) {
  const fs::path fixture = fs::path(MTP_SOURCE_DIR) / "tests/fixtures" / GetParam();
  const auto expect_same = [&](const std::string& model, const auto& config) {
    const auto files = hf::TensorFiles::open(fixture / model);
    std::vector<std::string> names;
    for (const TensorRecord& tensor : tensors_of(config)) {
      if (!tensor.is_used) continue;  // released files hold them, Hugging Face's modules do not
      names.push_back(tensor.name);
      ASSERT_TRUE(files.has(tensor.name)) << model << " " << tensor.name;
      EXPECT_EQ(files.info(tensor.name).shape, tensor.shape) << model << " " << tensor.name;
    }
    EXPECT_THAT(files.names(), testing::UnorderedElementsAreArray(names)) << model;
  };
  expect_same("base", hf::read_base_config(fixture / "base"));
  expect_same("drafter", hf::read_drafter_config(fixture / "drafter"));
}

INSTANTIATE_TEST_SUITE_P(HuggingFace, FixtureTensors,
                         testing::Values("e4b", "e2b_masked_head", "dense_31b", "k_eq_v_shared_pr2240",
                                         "pr2240_target_base", "kv_heads_per_layer"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace mtp::model
