#include "mtp/hf/presets.h"

#include <algorithm>
#include <cstdint>

namespace mtp::hf {

namespace {

// What the presets differ in. Every other key is the same in all, or absent and Hugging Face's default. `layers` stands
// for layer_types: so many sliding layers before each full one, repeated; in the last `sharing` repeats they share keys
// and values.
// Only `small-vision` has a tower. The others are Gemma4ForCausalLM with the tensor names and the configuration of the
// published models, which engines that want a vision_config of a Gemma4ForConditionalGeneration take, too.
// `small` and `small-vision` have no centroids: they are never trained, and random ones would serve a drafter badly
// however much it learns.
constexpr const char* small_shapes = R"([
  {
    "name": "tiny",
    "summary": "base 64 wide, 6 layers; drafter 32 wide, 4 layers; vocabulary 512: for tests",
    "base": {
      "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
      "layers": {"sliding": 2, "repeats": 2, "sharing": 1}, "sliding_window": 8, "max_position_embeddings": 256,
      "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 512, "final_logit_softcapping": 30.0
    },
    "drafter": {
      "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
      "layers": {"sliding": 3, "repeats": 1}, "sliding_window": 8, "max_position_embeddings": 256
    },
    "centroids": {"num_centroids": 16, "centroid_intermediate_top_k": 4}
  },
  {
    "name": "small",
    "summary": "base 256 wide, 12 layers; drafter 64 wide, 4 layers; vocabulary 4096: trains on two processor cores",
    "base": {
      "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
      "layers": {"sliding": 2, "repeats": 4, "sharing": 2}, "sliding_window": 64, "max_position_embeddings": 1024,
      "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 4096, "final_logit_softcapping": 30.0
    },
    "drafter": {
      "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
      "layers": {"sliding": 3, "repeats": 1}, "sliding_window": 64, "max_position_embeddings": 1024
    }
  },
  {
    "name": "small-vision",
    "summary": "base 128 wide, 6 layers, with a vision tower 96 wide, 3 layers; drafter 64 wide, 4 layers; vocabulary 1024",
    "base": {
      "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 512,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
      "layers": {"sliding": 2, "repeats": 2, "sharing": 1}, "sliding_window": 128, "max_position_embeddings": 1024,
      "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 1024, "final_logit_softcapping": 30.0
    },
    "vision": {
      "vision_config": {
        "model_type": "gemma4_vision", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 24,
        "patch_size": 16, "pooling_kernel_size": 2, "position_embedding_size": 1024
      },
      "vision_soft_tokens_per_image": 70, "boi_token_id": 1021, "image_token_id": 1022, "eoi_token_id": 1023
    },
    "drafter": {
      "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
      "layers": {"sliding": 3, "repeats": 1}, "sliding_window": 128, "max_position_embeddings": 1024
    }
  }
])";

constexpr const char* e4b = R"({
  "name": "e4b",
  "summary": "Gemma 4 E4B's text decoder, 7.5 billion parameters, and its drafter, 78.5 million: 30 GB",
  "base": {
    "vocab_size": 262144, "hidden_size": 2560, "intermediate_size": 10240,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512,
    "layers": {"sliding": 5, "repeats": 7, "sharing": 3}, "sliding_window": 512,
    "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144, "final_logit_softcapping": 30.0
  },
  "drafter": {
    "vocab_size": 262144, "hidden_size": 256, "intermediate_size": 2048,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512,
    "layers": {"sliding": 3, "repeats": 1}, "sliding_window": 512
  },
  "centroids": {"num_centroids": 2048, "centroid_intermediate_top_k": 32}
})";

// The other published pairs, by what they change in E4B's.
constexpr const char* e2b_changes = R"({
  "name": "e2b",
  "summary": "Gemma 4 E2B's text decoder, 4.6 billion parameters, and its drafter, 77.7 million: 19 GB",
  "base": {
    "hidden_size": 1536, "intermediate_size": 6144, "num_key_value_heads": 1,
    "layers": {"sliding": 4, "sharing": 4}, "use_double_wide_mlp": true
  },
  "drafter": {"num_key_value_heads": 1}
})";
constexpr const char* dense_31b_changes = R"({
  "name": "31b",
  "summary": "Gemma 4 31B's text decoder, 30.7 billion parameters, and its drafter, 469.5 million: 125 GB",
  "base": {
    "hidden_size": 5376, "intermediate_size": 21504,
    "num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4, "attention_k_eq_v": true,
    "layers": {"repeats": 10, "sharing": 0}, "sliding_window": 1024, "max_position_embeddings": 262144,
    "hidden_size_per_layer_input": 0
  },
  "drafter": {
    "hidden_size": 1024, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4, "attention_k_eq_v": true,
    "sliding_window": 1024
  },
  "centroids": null
})";

// By what they change in 31B's.
constexpr const char* unified_12b_changes = R"({
  "name": "12b",
  "summary": "Gemma 4 12B's text decoder, 11.9 billion parameters, and its drafter, 422.9 million: 49 GB",
  "family": "unified",
  "base": {
    "hidden_size": 3840, "intermediate_size": 15360,
    "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 1,
    "layers": {"repeats": 8}
  },
  "drafter": {"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 1}
})";
constexpr const char* experts_26b_changes = R"({
  "name": "26b-a4b",
  "summary": "Gemma 4 26B-A4B's text decoder, 25.2 billion parameters, and its drafter, 419.7 million: 103 GB",
  "base": {
    "hidden_size": 2816, "intermediate_size": 2112,
    "num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2,
    "enable_moe_block": true, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704,
    "layers": {"repeats": 5}
  },
  "drafter": {"num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 2}
})";

Json changed(Json shape, const Json& changes) {
  shape.merge_patch(changes);
  return shape;
}

/// The same structure at a 32nd of every width, with a vocabulary of 1024, no more than two repeats of the layers, and
/// a few of the experts.
Json mini(Json shape) {
  const std::string name = shape["name"];
  for (const char* part : {"base", "drafter"}) {
    Json& text = shape[part];
    for (const char* width : {"hidden_size", "intermediate_size", "head_dim", "global_head_dim", "sliding_window",
                              "hidden_size_per_layer_input", "moe_intermediate_size"})
      if (text.contains(width)) text[width] = text[width].get<std::int64_t>() / 32;
    for (const char* vocabulary : {"vocab_size", "vocab_size_per_layer_input"})
      if (text.contains(vocabulary)) text[vocabulary] = 1024;
    if (text.contains("num_experts")) text.update({{"num_experts", 16}, {"top_k_experts", 4}});
    Json& layers = text["layers"];
    layers["repeats"] = std::min(layers["repeats"].get<int>(), 2);
    layers["sharing"] = std::min(layers.value("sharing", 0), 1);
  }
  if (shape.contains("centroids")) shape["centroids"] = {{"num_centroids", 64}, {"centroid_intermediate_top_k", 4}};
  shape["name"] = name + "-mini";
  shape["summary"] = "the structure of " + name + " at a 32nd of its widths, vocabulary 1024: for tests";
  return shape;
}

/// Replaces `layers` by the keys that Hugging Face knows.
Json with_layer_types(Json text) {
  const Json layers = text["layers"];
  text.erase("layers");
  const std::int64_t sliding = layers["sliding"], repeats = layers["repeats"], sharing = layers.value("sharing", 0);
  Json types = Json::array();
  for (std::int64_t i = 0; i < repeats; ++i) {
    types.insert(types.end(), sliding, "sliding_attention");
    types.push_back("full_attention");
  }
  text["num_hidden_layers"] = types.size();
  text["layer_types"] = std::move(types);
  if (sharing > 0) text["num_kv_shared_layers"] = sharing * (sliding + 1);
  return text;
}

/// The names of a family's classes and types: "Gemma4" and "gemma4", or "Gemma4Unified" and "gemma4_unified".
struct Names {
  std::string classes, types;
};

/// `architecture` and `type`: what follows the family's.
Json model(const Names& family, const char* architecture, const char* type, const Json& shape) {
  Json text = with_layer_types(shape);
  text.update({{"model_type", family.types + "_text"}, {"pad_token_id", 0}, {"eos_token_id", 1}, {"bos_token_id", 2}});
  return {{"architectures", {family.classes + architecture}},
          {"model_type", family.types + type},
          {"dtype", "float32"},
          {"tie_word_embeddings", true},
          {"text_config", std::move(text)}};
}

Preset preset(const Json& shape) {
  const Names family =
      shape.value("family", "") == "unified" ? Names{"Gemma4Unified", "gemma4_unified"} : Names{"Gemma4", "gemma4"};
  Preset preset{shape["name"], shape["summary"], model(family, "ForCausalLM", "", shape["base"]),
                model(family, "AssistantForCausalLM", "_assistant", shape["drafter"])};
  if (shape.contains("vision")) {
    preset.base["architectures"] = {"Gemma4ForConditionalGeneration"};
    preset.base.update(shape["vision"]);
  }
  Json& text = preset.drafter["text_config"];
  text.update({{"hidden_size_per_layer_input", 0}, {"vocab_size_per_layer_input", 0}});
  text["num_kv_shared_layers"] = text["num_hidden_layers"];
  preset.drafter["backbone_hidden_size"] = shape["base"]["hidden_size"];
  preset.drafter["use_ordered_embeddings"] = shape.contains("centroids");
  if (shape.contains("centroids")) preset.drafter.update(shape["centroids"]);
  return preset;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = [] {
    const Json e4b_shape = Json::parse(e4b);
    const Json dense_31b = changed(e4b_shape, Json::parse(dense_31b_changes));
    const Json published[] = {changed(e4b_shape, Json::parse(e2b_changes)), e4b_shape,
                              changed(dense_31b, Json::parse(unified_12b_changes)),
                              changed(dense_31b, Json::parse(experts_26b_changes)), dense_31b};
    std::vector<Preset> made;
    for (const Json& shape : Json::parse(small_shapes)) made.push_back(preset(shape));
    for (const Json& shape : published) made.push_back(preset(mini(shape)));
    for (const Json& shape : published) made.push_back(preset(shape));
    return made;
  }();
  return all;
}

}  // namespace mtp::hf
