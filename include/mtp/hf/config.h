#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mtp/core/json.h"

namespace mtp::hf {

enum class LayerType { full, sliding };
std::string to_string(LayerType type);

/// What differs between the decoder layers of one model.
struct LayerShape {
  bool is_sliding = false;
  std::int64_t head_dim = 0, kv_heads = 0;
  std::int64_t intermediate_size = 0;
  bool k_eq_v = false;     // values are the keys' projection
  bool shares_kv = false;  // no keys and values of its own: those of the store layer of its type
  bool is_store = false;   // its keys and values are what shared layers and the drafter use
};

/// `rope_parameters` of one attention type.
struct RopeParameters {
  std::string rope_type;  // "default" or "proportional"
  double rope_theta = 0;
  double factor = 1, partial_rotary_factor = 1;
};

/// A Gemma 4 text decoder, of the base or of the drafter; keys that are missing have Hugging Face's class defaults,
/// here those of Gemma4TextConfig. Source: Hugging Face configuration_gemma4.py and configuration_gemma4_unified.py.
struct TextConfig {
  std::int64_t vocab_size = 262144, hidden_size = 2304, intermediate_size = 9216;
  std::int64_t num_hidden_layers = 30, num_attention_heads = 8;
  float rms_norm_eps = 1e-6f;
  std::int64_t max_position_embeddings = 131072;
  std::int64_t pad_token_id = 0;
  std::int64_t sliding_window = 512;
  std::optional<float> final_logit_softcapping;
  std::int64_t vocab_size_per_layer_input = 262144, hidden_size_per_layer_input = 256;  // width 0: no per-layer inputs
  std::int64_t num_kv_shared_layers = 0;
  std::int64_t num_experts = 0, top_k_experts = 0, moe_intermediate_size = 0;  // of every layer; 0: no experts
  bool bidirectional_images = false;  // on sliding layers, an image's tokens see all of their image
  std::vector<LayerShape> layers;
  RopeParameters full_rope, sliding_rope;

  bool has_experts() const { return num_experts > 0; }
  const LayerShape& layer(std::int64_t i) const { return layers[static_cast<std::size_t>(i)]; }
  /// The shape of the layers of a type; they are all alike but for the MLP. Null where the model has none.
  const LayerShape* layer_of(LayerType type) const;
  /// [head_dim / 2] in fp32 as Hugging Face computes them.
  std::vector<float> rope_inverse_frequencies(LayerType type) const;
};

/// The vision tower of a base; keys that are missing have Hugging Face's class defaults.
/// Source: Gemma4VisionConfig, Hugging Face configuration_gemma4.py.
struct VisionConfig {
  std::int64_t hidden_size = 768, intermediate_size = 3072;
  std::int64_t num_hidden_layers = 16, num_attention_heads = 12, num_key_value_heads = 12, head_dim = 64;
  float rms_norm_eps = 1e-6f;
  std::int64_t patch_size = 16;                  // pixels that a patch is wide and high
  std::int64_t pooling_kernel_size = 3;          // patches that a soft token is wide and high
  std::int64_t position_embedding_size = 10240;  // patches that an image may be wide or high
  double rope_theta = 100;
  bool standardize = false, use_clipped_linears = false;

  std::int64_t patch_values() const { return 3 * patch_size * patch_size; }
  std::int64_t patches_per_token() const { return pooling_kernel_size * pooling_kernel_size; }
  /// θ^(-4i/d) of both dimensions.   [head_dim / 4] in fp32 as Hugging Face computes them
  std::vector<float> rope_inverse_frequencies() const;
};

/// What a unified base has in place of a vision tower; keys that are missing have Hugging Face's class defaults.
/// Source: Gemma4UnifiedVisionConfig, Hugging Face configuration_gemma4_unified.py.
struct PatchEmbedderConfig {
  std::int64_t patch_size = 48;  // pixels that a patch, which is a soft token, is wide and high
  std::int64_t embed_dim = 3840;
  std::int64_t position_embedding_size = 1120;  // patches that an image may be wide or high
  float rms_norm_eps = 1e-6f;                   // of the projector

  std::int64_t patch_values() const { return 3 * patch_size * patch_size; }
};

/// What a unified base takes sound with: frames of raw samples are projected into the model.
/// Source: Gemma4UnifiedAudioConfig, Hugging Face configuration_gemma4_unified.py.
struct FrameProjectorConfig {
  std::int64_t frame_size = 640;  // samples that a frame, which is a soft token, has
  float rms_norm_eps = 1e-6f;
};

/// The audio tower; keys that are missing have Hugging Face's class defaults.
/// Source: Gemma4AudioConfig, Hugging Face configuration_gemma4.py.
struct AudioConfig {
  std::int64_t hidden_size = 1024, num_hidden_layers = 12, num_attention_heads = 8;
  std::array<std::int64_t, 2> channels{128, 32};  // of the two convolutions that shorten a clip
  std::int64_t conv_kernel_size = 5;              // steps that the layers' own convolution sees
  std::int64_t attention_span = 12;               // steps that a step attends to, itself among them
  float attention_logit_cap = 50;
  float residual_weight = 0.5f;  // of the feed-forwards
  float clipping = 1e10f;        // that states are kept within
  float rms_norm_eps = 1e-6f;
  bool use_clipped_linears = true;
  std::int64_t output_size = 1536;

  /// Numbers of a log-mel frame.
  std::int64_t frame_size() const { return channels[0]; }
  static constexpr std::int64_t frames_per_token = 4;
  std::int64_t head_dim() const { return hidden_size / num_attention_heads; }
};

/// config.json of a Gemma4ForConditionalGeneration, or of a Gemma4ForCausalLM on its own (model_type gemma4_text: the
/// keys of text_config stand at the top level); or of the unified family's (gemma4_unified, gemma4_unified_text).
struct BaseConfig {
  std::string file;        // for messages
  std::string model_type;  // "gemma4", …
  std::string prefix;      // of the text decoder's tensors: "model.language_model.", or "model." in a file of it alone
  TextConfig text;
  // What it takes images with: at most one of these; neither: a model of text alone.
  std::optional<VisionConfig> vision;
  std::optional<PatchEmbedderConfig> patch_embedder;
  // What it takes sound with, likewise.
  std::optional<AudioConfig> audio;
  std::optional<FrameProjectorConfig> frame_projector;
  std::int64_t image_token_id = 0, video_token_id = 0, audio_token_id = 0;

  bool takes_images() const { return vision || patch_embedder; }
  bool takes_sound() const { return audio || frame_projector; }
  std::vector<std::int64_t> special_ids() const { return {image_token_id, video_token_id, audio_token_id}; }
};

/// config.json of a Gemma4AssistantForCausalLM or a Gemma4UnifiedAssistantForCausalLM, which differ in the defaults of
/// missing keys alone: either may work on either family's base.
struct DrafterConfig {
  std::string file;        // for messages
  std::string model_type;  // "gemma4_assistant", …
  TextConfig text;
  std::int64_t backbone_hidden_size = 1536;
  bool use_ordered_embeddings = false;  // has centroids
  std::int64_t num_centroids = 2048, centroid_intermediate_top_k = 32;
};

/// Both spellings of per-layer sizes: global_head_dim and num_global_key_value_heads, or per_layer_config. Throw Error
/// in one line that names the file and the key; bidirectional attention over all tokens and other variants that are not
/// implemented are refused by name.
BaseConfig read_base_config(const std::filesystem::path& directory);
DrafterConfig read_drafter_config(const std::filesystem::path& directory);

/// The same from what a file holds; messages call it `name`.
BaseConfig parse_base_config(const Json& json, const std::string& name);
DrafterConfig parse_drafter_config(const Json& json, const std::string& name);
/// Which of the two a config.json describes, by its model_type.
bool is_drafter(const Json& json);

/// Throws Error, naming both numbers, where a drafter cannot work on a base.
void check_fit(const BaseConfig& base, const DrafterConfig& drafter);

}  // namespace mtp::hf
