#include "mtp/hf/config.h"

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

using testing::ElementsAre;

const Json base_json = Json::parse(R"({
  "model_type": "gemma4",
  "text_config": {
    "vocab_size": 96, "hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16, "num_kv_shared_layers": 2, "sliding_window": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "max_position_embeddings": 64, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 96,
    "final_logit_softcapping": 30.0
  }
})");

const Json drafter_json = Json::parse(R"({
  "model_type": "gemma4_assistant", "backbone_hidden_size": 24,
  "use_ordered_embeddings": true, "num_centroids": 12, "centroid_intermediate_top_k": 3,
  "text_config": {
    "vocab_size": 96, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 16, "sliding_window": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0
  }
})");

std::vector<std::string> every_layer(std::size_t layers, const std::string& type) { return std::vector(layers, type); }

/// A configuration with some keys of its text_config changed.
Json with_text(Json json, const Json& changes) {
  json["text_config"].update(changes);
  return json;
}
Json with(Json json, const Json& changes) {
  json.update(changes);
  return json;
}

class ConfigTest : public testing::Test {
 protected:
  BaseConfig base(const Json& json) {
    write_json(dir.path() / "config.json", json);
    return read_base_config(dir.path());
  }
  DrafterConfig drafter(const Json& json) {
    write_json(dir.path() / "config.json", json);
    return read_drafter_config(dir.path());
  }
  /// What reading a base with a changed text_config says, without "…/config.json: text_config: ".
  std::string base_refusal(const Json& text_changes) {
    return without_path([&] { base(with_text(base_json, text_changes)); }, "text_config: ");
  }
  template <typename Action>
  std::string without_path(Action action, const std::string& section = "") {
    const std::string message = test::error_of(action);
    const std::string where = (dir.path() / "config.json").string() + ": " + section;
    return message.starts_with(where) ? message.substr(where.size()) : message;
  }
  std::string misfit(const Json& base_config, const Json& drafter_config) {
    const BaseConfig b = base(base_config);
    const DrafterConfig d = drafter(drafter_config);
    return test::error_of([&] { check_fit(b, d); });
  }

  test::TempDir dir;
};

void expect_equal(const std::vector<LayerShape>& a, const std::vector<LayerShape>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto parts = [](const LayerShape& layer) {
      return std::tuple(layer.is_sliding, layer.head_dim, layer.kv_heads, layer.intermediate_size, layer.k_eq_v,
                        layer.shares_kv, layer.is_store);
    };
    EXPECT_EQ(parts(a[i]), parts(b[i])) << "layer " << i;
  }
}

TEST_F(ConfigTest, MissingKeysHaveTheDefaultsOfHuggingFace) {
  const BaseConfig config = base({{"model_type", "gemma4"}, {"text_config", Json::object()}});
  const TextConfig& text = config.text;
  EXPECT_EQ(text.vocab_size, 262144);
  EXPECT_EQ(text.hidden_size, 2304);
  EXPECT_EQ(text.num_hidden_layers, 30);
  EXPECT_EQ(text.num_attention_heads, 8);
  EXPECT_EQ(text.rms_norm_eps, 1e-6f);
  EXPECT_EQ(text.max_position_embeddings, 131072);
  EXPECT_EQ(text.pad_token_id, 0);
  EXPECT_EQ(text.sliding_window, 512);
  EXPECT_EQ(text.final_logit_softcapping, std::nullopt);
  EXPECT_EQ(text.hidden_size_per_layer_input, 256);
  EXPECT_EQ(text.vocab_size_per_layer_input, 262144);
  for (std::int64_t i = 0; i < 30; ++i) {
    const bool is_full = i % 6 == 5;
    EXPECT_EQ(text.layer(i).is_sliding, !is_full) << i;
    EXPECT_EQ(text.layer(i).head_dim, is_full ? 512 : 256) << i;
    EXPECT_EQ(text.layer(i).kv_heads, 4) << i;
    EXPECT_EQ(text.layer(i).intermediate_size, 9216) << i;
    EXPECT_FALSE(text.layer(i).shares_kv) << i;
    EXPECT_EQ(text.layer(i).is_store, i == 28 || i == 29) << i;
  }
  EXPECT_EQ(text.sliding_rope.rope_type, "default");
  EXPECT_EQ(text.sliding_rope.rope_theta, 1e4);
  EXPECT_EQ(text.full_rope.rope_type, "proportional");
  EXPECT_EQ(text.full_rope.rope_theta, 1e6);
  EXPECT_EQ(text.full_rope.partial_rotary_factor, 0.25);
  EXPECT_THAT(config.special_ids(), ElementsAre(258880, 258884, 258881));
}

TEST_F(ConfigTest, AVisionTowerIsReadWithItsDefaults) {
  EXPECT_EQ(base({{"model_type", "gemma4"}, {"text_config", Json::object()}}).vision, std::nullopt);
  const BaseConfig config =
      base({{"model_type", "gemma4"}, {"text_config", Json::object()}, {"vision_config", Json::object()}});
  ASSERT_TRUE(config.vision);
  EXPECT_EQ(config.vision->patch_values(), 768);
  EXPECT_EQ(config.vision->patches_per_token(), 9);
  const std::vector<float> frequencies = config.vision->rope_inverse_frequencies();
  ASSERT_EQ(frequencies.size(), 16);
  EXPECT_EQ(frequencies[0], 1.0f);
  EXPECT_FLOAT_EQ(frequencies[8], 0.1f);  // 100^(-16 / 32)
}

TEST_F(ConfigTest, MissingKeysOfAUnifiedModelHaveTheDefaultsOfItsOwnClasses) {
  const BaseConfig config = base({{"model_type", "gemma4_unified"}, {"text_config", Json::object()}});
  EXPECT_EQ(config.prefix, "model.language_model.");
  EXPECT_EQ(config.text.hidden_size, 2304);
  EXPECT_EQ(config.text.max_position_embeddings, 262144);
  EXPECT_EQ(config.text.sliding_window, 1024);
  EXPECT_EQ(config.text.hidden_size_per_layer_input, 0);
  EXPECT_TRUE(config.text.bidirectional_images);
  EXPECT_FALSE(config.takes_images());
  EXPECT_FALSE(base({{"model_type", "gemma4_unified"}, {"text_config", {{"use_bidirectional_attention", nullptr}}}})
                   .text.bidirectional_images);
  EXPECT_EQ(base({{"model_type", "gemma4_unified_text"}}).prefix, "model.");
  EXPECT_EQ(without_path([&] {
              base({{"model_type", "gemma4_unified"}, {"text_config", {{"hidden_size_per_layer_input", 256}}}});
            }),
            "text_config: hidden_size_per_layer_input is 256; the unified family has none");
}

TEST_F(ConfigTest, ADraftersTextHasTheDefaultsOfTheClassThatItNames) {
  const auto window = [&](const char* type, const Json& of_text) {
    Json json = drafter_json;
    json["model_type"] = type;
    json["text_config"].erase("sliding_window");
    return drafter(with_text(json, of_text)).text.sliding_window;
  };
  EXPECT_EQ(window("gemma4_assistant", Json::object()), 512);
  EXPECT_EQ(window("gemma4_unified_assistant", Json::object()), 1024);
  EXPECT_EQ(window("gemma4_unified_assistant", {{"model_type", "gemma4_text"}}), 512);
  EXPECT_EQ(drafter({{"model_type", "gemma4_unified_assistant"}, {"text_config", {{"hidden_size_per_layer_input", 0}}}})
                .backbone_hidden_size,
            3840);
}

TEST_F(ConfigTest, APatchEmbedderIsReadWithItsDefaults) {
  const auto read = [&](const Json& vision) {
    return base({{"model_type", "gemma4_unified"}, {"text_config", Json::object()}, {"vision_config", vision}});
  };
  const Json released = {{"initializer_range", 0.02},
                         {"mm_embed_dim", 3840},
                         {"mm_posemb_size", 1120},
                         {"model_patch_size", 48},
                         {"model_type", "gemma4_unified_vision"},
                         {"num_soft_tokens", 280},
                         {"output_proj_dims", 3840},
                         {"patch_size", 16},
                         {"pooling_kernel_size", 3},
                         {"rms_norm_eps", 1e-6}};
  for (const Json& vision : {Json::object(), released}) {
    const BaseConfig config = read(vision);
    ASSERT_TRUE(config.patch_embedder);
    EXPECT_TRUE(config.takes_images());
    EXPECT_EQ(config.vision, std::nullopt);
    EXPECT_EQ(config.patch_embedder->patch_values(), 6912);
    EXPECT_EQ(config.patch_embedder->embed_dim, 3840);
    EXPECT_EQ(config.patch_embedder->position_embedding_size, 1120);
    EXPECT_EQ(config.patch_embedder->rms_norm_eps, 1e-6f);
  }
  const auto refusal = [&](const Json& vision) { return without_path([&] { read(vision); }, "vision_config: "); };
  EXPECT_EQ(refusal({{"mm_embed_dim", 20}}), "output_proj_dims is 3840, mm_embed_dim is 20; they must be the same");
  EXPECT_EQ(refusal({{"model_type", "gemma4_vision"}}),
            "model_type is \"gemma4_vision\", expected \"gemma4_unified_vision\"");
  EXPECT_EQ(refusal({{"patch_size", 10000}}), "patches of 30000 pixels a side are too large; 10000 at most");
  EXPECT_EQ(refusal({{"rms_norm_eps", -1}}), "rms_norm_eps is -1, it must be at least 0");
}

TEST_F(ConfigTest, AFrameProjectorIsReadWithItsDefaults) {
  const auto read = [&](const Json& audio) {
    return base({{"model_type", "gemma4_unified"}, {"text_config", Json::object()}, {"audio_config", audio}});
  };
  const Json released = {{"audio_embed_dim", 640},    {"audio_samples_per_token", 640},       {"hidden_size", 640},
                         {"initializer_range", 0.02}, {"model_type", "gemma4_unified_audio"}, {"output_proj_dims", 640},
                         {"rms_norm_eps", 1e-6}};
  for (const Json& audio : {Json::object(), released}) {
    ASSERT_TRUE(read(audio).takes_sound());
    EXPECT_EQ(read(audio).frame_projector->frame_size, 640);
    EXPECT_EQ(read(audio).frame_projector->rms_norm_eps, 1e-6f);
  }
  const auto refusal = [&](const Json& audio) { return without_path([&] { read(audio); }, "audio_config: "); };
  EXPECT_EQ(refusal({{"audio_embed_dim", 20}, {"hidden_size", 24}}),
            "hidden_size is 24, audio_embed_dim is 20; they must be the same");
  EXPECT_EQ(refusal({{"model_type", "gemma4_audio"}}),
            "model_type is \"gemma4_audio\", expected \"gemma4_unified_audio\"");
}

TEST_F(ConfigTest, AnAudioTowerIsReadWithItsDefaults) {
  const auto read = [&](const Json& audio) {
    return *base({{"model_type", "gemma4"}, {"text_config", Json::object()}, {"audio_config", audio}}).audio;
  };
  const hf::AudioConfig released = read(Json::object());
  EXPECT_EQ(released.frame_size(), 128);
  EXPECT_EQ(released.attention_span, 12);
  EXPECT_TRUE(released.use_clipped_linears);
  EXPECT_EQ(read({{"subsampling_conv_channels", {20, 6}}}).channels, (std::array<std::int64_t, 2>{20, 6}));
  const auto refusal = [&](const Json& audio) { return without_path([&] { read(audio); }, "audio_config: "); };
  EXPECT_EQ(refusal({{"model_type", "gemma4_unified_audio"}}),
            "model_type is \"gemma4_unified_audio\", expected \"gemma4_audio\"");
  EXPECT_EQ(refusal({{"hidden_act", "relu"}}), "hidden_act relu is not supported; it must be silu");
  EXPECT_EQ(refusal({{"attention_context_right", 1}}), "attention_context_right is 1, it must be 0");
  EXPECT_EQ(refusal({{"attention_context_left", 6}}),
            "attention_chunk_size is 12, it must be attention_context_left - 1, which is 5");
  EXPECT_EQ(refusal({{"hidden_size", 20}}),
            "hidden_size is 20, it must be even and a multiple of num_attention_heads, 8");
  EXPECT_EQ(refusal({{"gradient_clipping", 0}}), "gradient_clipping is 0, it must be above 0");
  EXPECT_EQ(refusal({{"subsampling_conv_channels", {6, 2}}}),
            "subsampling_conv_channels must be two numbers above 0, the first a multiple of 4");
  EXPECT_EQ(refusal({{"rms_norm_eps", -1}}), "rms_norm_eps is -1, it must be at least 0");
}

TEST_F(ConfigTest, AVisionTowerThatIsNotBuiltIsRefusedByName) {
  const auto refusal = [&](const Json& vision) {
    return without_path(
        [&] {
          base({{"model_type", "gemma4"}, {"text_config", Json::object()}, {"vision_config", vision}});
        },
        "vision_config: ");
  };
  EXPECT_EQ(refusal({{"head_dim", 6}}), "head_dim is 6, it must be a multiple of 4");
  EXPECT_EQ(refusal({{"num_attention_heads", 4}, {"num_key_value_heads", 3}}),
            "num_key_value_heads 3 does not divide num_attention_heads 4");
  EXPECT_EQ(refusal({{"hidden_activation", "silu"}}),
            "hidden_activation silu is not supported; it must be gelu_pytorch_tanh");
  EXPECT_EQ(refusal({{"rope_parameters", {{"rope_type", "yarn"}}}}),
            "rope_parameters: rope_type yarn is not supported; it must be default or axial");
  EXPECT_EQ(refusal({{"rope_parameters", {{"rope_type", "axial"}}}}), "no error");
}

TEST_F(ConfigTest, TheLastLayerIsFullWhateverTheFileSays) {
  EXPECT_FALSE(base(with_text(base_json, {{"num_hidden_layers", 4},
                                          {"num_kv_shared_layers", 0},
                                          {"layer_types", every_layer(4, "sliding_attention")}}))
                   .text.layer(3)
                   .is_sliding);
  Json default_types = with_text(base_json, {{"num_hidden_layers", 4}, {"num_kv_shared_layers", 0}});
  default_types["text_config"].erase("layer_types");
  EXPECT_FALSE(base(default_types).text.layer(3).is_sliding);
}

TEST_F(ConfigTest, BothSpellingsOfHeadSizesMeanTheSame) {
  Json per_layer =
      with_text(base_json, {{"per_layer_config", {{"2", {{"head_dim", 16}}}, {"04", {{"head_dim", 16}}}}}});
  per_layer["text_config"].erase("global_head_dim");
  expect_equal(base(per_layer).text.layers, base(base_json).text.layers);
  EXPECT_EQ(base(per_layer).text.layer(2).head_dim, 16);
  EXPECT_EQ(base(per_layer).text.layer(3).head_dim, 8);
}

TEST_F(ConfigTest, PerLayerConfigLeavesNothingToGlobalHeadDim) {
  for (const Json& none : {Json::object(), Json(nullptr)})
    EXPECT_EQ(base(with_text(base_json, {{"per_layer_config", none}})).text.layer(2).head_dim, 8) << none;
}

TEST_F(ConfigTest, GlobalKeyValueHeadsCountOnlyWhereKeysAreValues) {
  const Json two_numbers = {{"num_key_value_heads", 4}, {"num_global_key_value_heads", 1}};
  const TextConfig ignored = base(with_text(base_json, two_numbers)).text;
  EXPECT_EQ(ignored.layer(2).kv_heads, 4);
  EXPECT_FALSE(ignored.layer(2).k_eq_v);

  const TextConfig used = base(with_text(with_text(base_json, two_numbers), {{"attention_k_eq_v", true}})).text;
  EXPECT_EQ(used.layer(2).kv_heads, 1);
  EXPECT_EQ(used.layer(1).kv_heads, 4);
  EXPECT_TRUE(used.layer(2).k_eq_v);
  EXPECT_FALSE(used.layer(1).k_eq_v) << "sliding layers have values of their own";

  Json per_layer = with_text(base_json, {{"num_key_value_heads", 4},
                                         {"attention_k_eq_v", true},
                                         {"per_layer_config",
                                          {{"2", {{"head_dim", 16}, {"num_key_value_heads", 1}}},
                                           {"4", {{"head_dim", 16}, {"num_key_value_heads", 1}}}}}});
  expect_equal(base(per_layer).text.layers, used.layers);
}

TEST_F(ConfigTest, SharedLayersUseTheLastLayerOfTheirTypeThatHasItsOwnKeys) {
  const TextConfig text = base(base_json).text;
  const auto shares = [&](std::int64_t i) { return text.layer(i).shares_kv; };
  const auto is_store = [&](std::int64_t i) { return text.layer(i).is_store; };
  EXPECT_THAT((std::vector{shares(0), shares(1), shares(2), shares(3), shares(4)}),
              ElementsAre(false, false, false, true, true));
  EXPECT_THAT((std::vector{is_store(0), is_store(1), is_store(2), is_store(3), is_store(4)}),
              ElementsAre(false, true, true, false, false));
}

TEST_F(ConfigTest, OnlySharedLayersAreDoubleWideAndOnlyWhereOthersAreNot) {
  const TextConfig text = base(with_text(base_json, {{"use_double_wide_mlp", true}})).text;
  EXPECT_EQ(text.layer(2).intermediate_size, 28);
  EXPECT_EQ(text.layer(3).intermediate_size, 56);
  // In a drafter all layers share, so the first shared one is 0.
  EXPECT_EQ(drafter(with_text(drafter_json, {{"use_double_wide_mlp", true}})).text.layer(0).intermediate_size, 20);
}

TEST_F(ConfigTest, AllLayersOfADrafterShare) {
  for (const Json& text : {Json::object(), Json{{"num_kv_shared_layers", 0}}, Json{{"num_kv_shared_layers", 3}}}) {
    const DrafterConfig config = drafter(with_text(drafter_json, text));
    for (const LayerShape& layer : config.text.layers) EXPECT_TRUE(layer.shares_kv && !layer.is_store) << text;
  }
}

TEST_F(ConfigTest, FrequenciesAreThoseOfHuggingFace) {
  const TextConfig text = base(base_json).text;
  // θ^(-i/4) with θ = 1e4.
  EXPECT_THAT(text.rope_inverse_frequencies(LayerType::sliding), ElementsAre(1.0f, 0.1f, 0.01f, 0.001f));
  // θ = 1e6 and 16 wide: a quarter of the 8 angles, the rest do not turn.
  EXPECT_THAT(text.rope_inverse_frequencies(LayerType::full), ElementsAre(1, 0.17782794f, 0, 0, 0, 0, 0, 0));

  const Json rope = {
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 16.0}}},
      {"full_attention",
       {{"rope_type", "proportional"}, {"rope_theta", 65536.0}, {"partial_rotary_factor", 0.5}, {"factor", 2.0}}}};
  const TextConfig other = base(with_text(base_json, {{"rope_parameters", rope}})).text;
  EXPECT_THAT(other.rope_inverse_frequencies(LayerType::sliding), ElementsAre(1, 0.5f, 0.25f, 0.125f));
  EXPECT_THAT(other.rope_inverse_frequencies(LayerType::full),
              ElementsAre(0.5f, 0.125f, 0.03125f, 0.0078125f, 0, 0, 0, 0));
}

TEST_F(ConfigTest, RopeIsNeededOnlyForTheTypesThatAModelHas) {
  const Json full_only = {{"layer_types", every_layer(5, "full_attention")},
                          {"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}};
  EXPECT_EQ(base_refusal(full_only), "no error");
  EXPECT_EQ(base_refusal({{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}}),
            "rope_parameters: sliding_attention is missing");
}

TEST_F(ConfigTest, VariantsThatAreNotImplementedAreRefusedByName) {
  EXPECT_EQ(base_refusal({{"use_bidirectional_attention", "all"}}),
            "use_bidirectional_attention \"all\" is not supported");
  EXPECT_EQ(base_refusal({{"use_bidirectional_attention", "vision"}}), "no error");
  EXPECT_EQ(base_refusal({{"attention_bias", true}}), "attention_bias true is not supported");
  EXPECT_EQ(base_refusal({{"attention_dropout", 0.1}}), "attention_dropout other than 0 is not supported");
  EXPECT_EQ(base_refusal({{"hidden_activation", "silu"}}),
            "hidden_activation other than gelu_pytorch_tanh is not supported");
  EXPECT_EQ(base_refusal({{"pad_token_id", nullptr}}), "pad_token_id null is not supported");
  const Json yarn = {{"rope_type", "yarn"}};
  EXPECT_EQ(base_refusal({{"rope_parameters", {{"full_attention", yarn}, {"sliding_attention", yarn}}}}),
            "rope_parameters: full_attention: rope_type yarn is not supported; it must be default or proportional");
  EXPECT_EQ(base_refusal({{"per_layer_config", {{"1", {{"intermediate_size", 8}}}}}}),
            "per_layer_config: 1: overrides intermediate_size, which is not supported per layer");
}

TEST_F(ConfigTest, ATieIsTheOuterConfigurationsMatterAsInHuggingFace) {
  EXPECT_EQ(base_refusal({{"tie_word_embeddings", false}}), "no error");
  const Json untied = {{"tie_word_embeddings", false}};
  EXPECT_EQ(without_path([&] { base(with(base_json, untied)); }), "tie_word_embeddings false is not supported");
  EXPECT_EQ(without_path([&] { drafter(with(drafter_json, untied)); }), "tie_word_embeddings false is not supported");
}

TEST_F(ConfigTest, ExpertsCountOnlyWhereTheyAreEnabled) {
  Json experts = {{"num_experts", 8}, {"top_k_experts", 3}, {"moe_intermediate_size", 20}};
  EXPECT_FALSE(base(with_text(base_json, experts)).text.has_experts());
  experts["enable_moe_block"] = true;
  const TextConfig text = base(with_text(base_json, experts)).text;
  EXPECT_EQ(text.num_experts, 8);
  EXPECT_EQ(text.top_k_experts, 3);
  EXPECT_EQ(text.moe_intermediate_size, 20);
  const auto refusal = [&](const Json& changes) { return base_refusal(with(experts, changes)); };
  EXPECT_EQ(refusal({{"num_experts", nullptr}}), "num_experts is missing, which enable_moe_block true needs");
  EXPECT_EQ(refusal({{"top_k_experts", 0}}), "top_k_experts is 0, it must be at least 1");
  EXPECT_EQ(refusal({{"top_k_experts", 9}}), "top_k_experts 9 is more than num_experts 8");
  EXPECT_EQ(refusal({{"moe_intermediate_size", 1 << 30}}),
            "num_experts 8 of moe_intermediate_size 1073741824 are more than 1073741823 rows in all");
  EXPECT_EQ(without_path([&] { drafter(with_text(drafter_json, experts)); }),
            "enable_moe_block is true; a drafter has no experts");
}

TEST_F(ConfigTest, ContradictionsAreNamedWithBothNumbers) {
  EXPECT_EQ(base_refusal({{"num_hidden_layers", 6}}), "layer_types names 5 layers, num_hidden_layers is 6");
  EXPECT_EQ(base_refusal({{"layer_types", every_layer(5, "chunked_attention")}}),
            "layer_types has the unknown type \"chunked_attention\"");
  EXPECT_EQ(base_refusal({{"num_kv_shared_layers", 6}}), "num_kv_shared_layers is 6, there are 5 layers");
  EXPECT_EQ(without_path([&] {
              base(with_text(base_json, {{"num_kv_shared_layers", 3}}));
            }),
            "layer 2 shares keys and values, but no full_attention layer has any of its own");
  EXPECT_EQ(base_refusal({{"num_key_value_heads", 3}}),
            "layer 0 has 3 key/value heads, which do not divide num_attention_heads 4");
  EXPECT_EQ(base_refusal({{"head_dim", 7}}), "layer 0 has the odd head size 7");
  EXPECT_EQ(base_refusal({{"pad_token_id", 96}}), "pad_token_id 96 is outside the vocabulary of 96");
  EXPECT_EQ(base_refusal({{"vocab_size_per_layer_input", 95}}),
            "vocab_size_per_layer_input 95 is less than vocab_size 96");
  EXPECT_EQ(base_refusal({{"final_logit_softcapping", 0}}), "final_logit_softcapping is 0, it must be above 0");
  EXPECT_EQ(base_refusal({{"per_layer_config", {{"5", {{"head_dim", 8}}}}}}),
            "per_layer_config: 5 is no layer of this model");
  EXPECT_EQ(base_refusal({{"per_layer_config", {{"x", {{"head_dim", 8}}}}}}),
            "per_layer_config: x is no layer of this model");
  EXPECT_EQ(base_refusal({{"per_layer_config", {{"2", {{"head_dim", 16}}}}}}),
            "layers 2 and 4 are both full_attention and differ in head size or key/value heads");
}

TEST_F(ConfigTest, WrongValuesAreNamed) {
  EXPECT_EQ(base_refusal({{"hidden_size", 0}}), "hidden_size is 0, it must be at least 1");
  EXPECT_EQ(base_refusal({{"hidden_size", "24"}}), "hidden_size has the wrong type: \"24\"");
  EXPECT_EQ(base_refusal({{"hidden_size", 24.5}}), "hidden_size has the wrong type: 24.5");
  EXPECT_EQ(base_refusal({{"hidden_size", true}}), "hidden_size has the wrong type: true");
  EXPECT_EQ(base_refusal({{"hidden_size", std::uint64_t{1} << 63}}),
            "hidden_size has the wrong type: 9223372036854775808");
  EXPECT_EQ(base_refusal({{"hidden_size", std::int64_t{1} << 40}}),
            "hidden_size is 1099511627776, it must be at most 2147483647");
  EXPECT_EQ(base_refusal({{"layer_types", "full_attention"}}), "layer_types is no list");
  EXPECT_EQ(base_refusal({{"sliding_window", 1}}), "sliding_window is 1, it must be at least 2");
  EXPECT_EQ(base_refusal({{"attention_k_eq_v", 1}}), "attention_k_eq_v has the wrong type: 1");
  EXPECT_EQ(base_refusal({{"rope_parameters", 3}}), "rope_parameters: is no JSON object");
  EXPECT_EQ(without_path([&] { base({{"model_type", "gemma4"}}); }), "text_config is missing");
  EXPECT_EQ(without_path([&] { base(drafter_json); }),
            "model_type is \"gemma4_assistant\", expected \"gemma4\" or \"gemma4_text\" or \"gemma4_unified\" or "
            "\"gemma4_unified_text\"");
  EXPECT_EQ(without_path([&] { drafter(base_json); }),
            "model_type is \"gemma4\", expected \"gemma4_assistant\" or \"gemma4_unified_assistant\"");
  EXPECT_THAT(test::error_of([&] { read_base_config(dir.path() / "gone"); }), testing::HasSubstr("cannot be read"));
}

TEST_F(ConfigTest, ADrafterThatIsNoneIsRefused) {
  const auto refusal = [&](const Json& json) { return without_path([&] { drafter(json); }); };
  EXPECT_EQ(refusal(with_text(drafter_json, {{"num_kv_shared_layers", 2}})),
            "num_kv_shared_layers is 2; all 3 layers of a drafter share");
  EXPECT_EQ(refusal(with_text(drafter_json, {{"hidden_size_per_layer_input", 4}, {"vocab_size_per_layer_input", 96}})),
            "hidden_size_per_layer_input is 4; a drafter has none");
  EXPECT_EQ(refusal(with(drafter_json, {{"num_centroids", 10}})), "num_centroids 10 does not divide vocab_size 96");
  EXPECT_EQ(refusal(with(drafter_json, {{"centroid_intermediate_top_k", 13}})),
            "centroid_intermediate_top_k 13 is more than num_centroids 12");
  EXPECT_EQ(refusal(with(drafter_json, {{"use_ordered_embeddings", false}, {"num_centroids", 10}})), "no error");
}

TEST_F(ConfigTest, APairThatDoesNotFitIsRefusedWithBothNumbers) {
  EXPECT_EQ(misfit(base_json, drafter_json), "no error");
  const std::string file = (dir.path() / "config.json").string(), start = file + " does not fit " + file + ": ";
  EXPECT_EQ(misfit(base_json, with(drafter_json, {{"backbone_hidden_size", 32}})),
            start + "hidden_size and backbone_hidden_size: 24 in the base, 32 in the drafter");
  EXPECT_EQ(misfit(base_json, with_text(drafter_json, {{"vocab_size", 192}})),
            start + "vocab_size: 96 in the base, 192 in the drafter");
  EXPECT_EQ(misfit(base_json, with_text(drafter_json, {{"global_head_dim", 32}})),
            start + "full_attention head size: 16 in the base, 32 in the drafter");
  EXPECT_EQ(misfit(base_json, with_text(drafter_json, {{"num_key_value_heads", 1}})),
            start + "full_attention key/value heads: 2 in the base, 1 in the drafter");
  EXPECT_EQ(
      misfit(with_text(base_json, {{"layer_types", every_layer(5, "full_attention")}}), drafter_json),
      start + "the drafter has sliding_attention layers, the base has no such layer with keys and values of its own");
}

}  // namespace
}  // namespace mtp::hf
