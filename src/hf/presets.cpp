#include "mtp/hf/make_pair.h"

namespace mtp::hf {

namespace {

// What the presets differ in. Every other key is the same in all, or absent and Hugging Face's default.
constexpr const char* shapes = R"([
  {
    "name": "tiny",
    "summary": "base 64 wide, 6 layers; drafter 32 wide, 4 layers; vocabulary 512: for tests",
    "base": {
      "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
      "layer_types": ["sliding_attention", "sliding_attention", "full_attention",
                      "sliding_attention", "sliding_attention", "full_attention"],
      "num_kv_shared_layers": 3, "sliding_window": 8, "max_position_embeddings": 256,
      "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 512, "final_logit_softcapping": 30.0
    },
    "drafter": {
      "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32,
      "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
      "sliding_window": 8, "max_position_embeddings": 256
    },
    "centroids": {"num_centroids": 16, "centroid_intermediate_top_k": 4}
  },
  {
    "name": "small",
    "summary": "base 192 wide, 8 layers; drafter 96 wide, 4 layers; vocabulary 4096: trains on two processor cores",
    "base": {
      "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 8,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
      "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention",
                      "sliding_attention", "full_attention", "sliding_attention", "full_attention"],
      "num_kv_shared_layers": 4, "sliding_window": 64, "max_position_embeddings": 1024,
      "hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 4096, "final_logit_softcapping": 30.0
    },
    "drafter": {
      "vocab_size": 4096, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "global_head_dim": 64,
      "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
      "sliding_window": 64, "max_position_embeddings": 1024
    },
    "centroids": {"num_centroids": 64, "centroid_intermediate_top_k": 8}
  }
])";

Json model(const char* architecture, const char* type, Json text) {
  text.update({{"model_type", "gemma4_text"}, {"pad_token_id", 0}, {"eos_token_id", 1}, {"bos_token_id", 2}});
  return {{"architectures", {architecture}},
          {"model_type", type},
          {"dtype", "float32"},
          {"tie_word_embeddings", true},
          {"text_config", std::move(text)}};
}

Preset preset(const Json& shape) {
  Preset preset{shape["name"], shape["summary"], model("Gemma4ForConditionalGeneration", "gemma4", shape["base"]),
                model("Gemma4AssistantForCausalLM", "gemma4_assistant", shape["drafter"])};
  preset.drafter["text_config"].update({{"hidden_size_per_layer_input", 0}, {"vocab_size_per_layer_input", 0}});
  preset.drafter["backbone_hidden_size"] = shape["base"]["hidden_size"];
  preset.drafter["use_ordered_embeddings"] = true;
  preset.drafter.update(shape["centroids"]);
  return preset;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = [] {
    std::vector<Preset> made;
    for (const Json& shape : Json::parse(shapes)) made.push_back(preset(shape));
    return made;
  }();
  return all;
}

}  // namespace mtp::hf
