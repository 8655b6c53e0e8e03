#include "mtp/hf/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <optional>

#include "mtp/core/error.h"

namespace mtp::hf {

namespace {

constexpr std::int64_t largest_size = std::numeric_limits<std::int32_t>::max();  // a product of two fits 64 bits
constexpr std::int64_t most_layers = 10'000;
constexpr std::int64_t largest_patch = 10'000;  // pixels a side

/// An object of a configuration file, whose path and key every message names.
class Section {
 public:
  Section(std::string where, const Json& json) : where_(std::move(where)), json_(json) {
    if (!json.is_object()) throw Error("{}: is no JSON object", where_);
  }

  const std::string& where() const { return where_; }
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  const Json& json() const { return json_; }

  Section section(const char* key) const {
    if (!has(key)) throw Error("{}: {} is missing", where_, key);
    return Section(where_ + ": " + key, json_[key]);
  }

  const Json& list(const char* key) const {
    if (!json_[key].is_array()) throw Error("{}: {} is no list", where_, key);
    return json_[key];
  }

  /// The value, or `missing` where the key is absent or null.
  template <typename T>
  T get(const char* key, T missing) const {
    return has(key) ? value<T>(key) : missing;
  }
  std::int64_t positive(const char* key, std::int64_t missing) const { return at_least(1, key, missing); }
  std::int64_t at_least(std::int64_t least, const char* key, std::int64_t missing) const {
    const auto number = get<std::int64_t>(key, missing);
    if (number < least) throw Error("{}: {} is {}, it must be at least {}", where_, key, number, least);
    if (number > largest_size) throw Error("{}: {} is {}, it must be at most {}", where_, key, number, largest_size);
    return number;
  }

 private:
  template <typename T>
  T value(const char* key) const {
    if (const std::optional<T> read = try_get<T>(json_[key])) return *read;
    throw Error("{}: {} has the wrong type: {}", where_, key, brief(json_[key]));
  }

  std::string where_;
  const Json& json_;
};

std::vector<LayerType> layer_types(const Section& text, std::int64_t layers) {
  std::vector<LayerType> types;
  if (!text.has("layer_types"))
    for (std::int64_t i = 0; i < layers; ++i) types.push_back((i + 1) % 6 != 0 ? LayerType::sliding : LayerType::full);
  else
    for (const Json& name : text.list("layer_types")) {
      if (name != "full_attention" && name != "sliding_attention")
        throw Error("{}: layer_types has the unknown type {}", text.where(), brief(name));
      types.push_back(name == "full_attention" ? LayerType::full : LayerType::sliding);
    }
  if (static_cast<std::int64_t>(types.size()) != layers)
    throw Error("{}: layer_types names {} layers, num_hidden_layers is {}", text.where(), types.size(), layers);
  types.back() = LayerType::full;  // Hugging Face forces it
  return types;
}

/// Head size and key/value heads of every layer, from either spelling.
void read_heads(const Section& text, std::vector<LayerShape>& layers) {
  const std::int64_t head_dim = text.positive("head_dim", 256), kv_heads = text.positive("num_key_value_heads", 4);
  const bool k_eq_v = text.get("attention_k_eq_v", false);
  const std::int64_t global_head_dim = text.positive("global_head_dim", 512);
  const std::int64_t global_kv_heads = k_eq_v ? text.positive("num_global_key_value_heads", kv_heads) : kv_heads;
  const bool per_layer = text.json().contains("per_layer_config");
  for (LayerShape& layer : layers) {
    const bool is_global = !per_layer && !layer.is_sliding;
    layer.head_dim = is_global ? global_head_dim : head_dim;
    layer.kv_heads = is_global ? global_kv_heads : kv_heads;
    layer.k_eq_v = k_eq_v && !layer.is_sliding;
  }
  if (!text.has("per_layer_config")) return;
  const Section overrides = text.section("per_layer_config");
  for (const auto& [number, unused] : overrides.json().items()) {
    const bool is_number = !number.empty() && std::all_of(number.begin(), number.end(), [](unsigned char c) {
      return std::isdigit(c) != 0;
    }) && number.size() < 10;
    if (!is_number || std::stoul(number) >= layers.size())
      throw Error("{}: {} is no layer of this model", overrides.where(), number);
    LayerShape& layer = layers[std::stoul(number)];
    const Section own = overrides.section(number.c_str());
    for (const auto& [key, value] : own.json().items())
      if (key != "head_dim" && key != "num_key_value_heads")
        throw Error("{}: overrides {}, which is not supported per layer", own.where(), key);
    layer.head_dim = own.positive("head_dim", layer.head_dim);
    layer.kv_heads = own.positive("num_key_value_heads", layer.kv_heads);
  }
}

void read_sharing(const Section& text, TextConfig& config) {
  const std::int64_t first_shared = config.num_hidden_layers - config.num_kv_shared_layers;
  if (first_shared < 0)
    throw Error("{}: num_kv_shared_layers is {}, there are {} layers", text.where(), config.num_kv_shared_layers,
                config.num_hidden_layers);
  const bool double_wide = text.get("use_double_wide_mlp", false);
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    LayerShape& layer = config.layers[i];
    layer.shares_kv = i >= first_shared;
    layer.intermediate_size = config.intermediate_size * (double_wide && layer.shares_kv && first_shared > 0 ? 2 : 1);
    const auto same_type = [&](const LayerShape& other) { return other.is_sliding == layer.is_sliding; };
    const auto rest = config.layers.begin() + i + 1, end = config.layers.begin() + first_shared;
    layer.is_store = !layer.shares_kv && std::none_of(rest, end, same_type);
  }
}

RopeParameters read_rope(const Section& text, LayerType type) {
  const bool full = type == LayerType::full;
  if (!text.has("rope_parameters"))
    return full ? RopeParameters{"proportional", 1e6, 1, 0.25} : RopeParameters{"default", 1e4, 1, 1};
  const Section rope = text.section("rope_parameters").section(to_string(type).c_str());
  RopeParameters parameters{.rope_type = rope.get<std::string>("rope_type", "default"),
                            .rope_theta = rope.get("rope_theta", 1e4),
                            .factor = rope.get("factor", 1.0),
                            .partial_rotary_factor = rope.get("partial_rotary_factor", 1.0)};
  if (parameters.rope_type != "default" && parameters.rope_type != "proportional")
    throw Error("{}: rope_type {} is not supported; it must be default or proportional", rope.where(),
                parameters.rope_type);
  if (parameters.rope_theta <= 0 || parameters.factor <= 0)
    throw Error("{}: rope_theta {} and factor {} must be above 0", rope.where(), parameters.rope_theta,
                parameters.factor);
  if (parameters.partial_rotary_factor < 0 || parameters.partial_rotary_factor > 1)
    throw Error("{}: partial_rotary_factor is {}, it must be 0 to 1", rope.where(), parameters.partial_rotary_factor);
  return parameters;
}

/// The two families of classes, which differ in the defaults of missing keys.
enum class Family { towers, unified };

Family family_of(const std::string& model_type) {
  return model_type.starts_with("gemma4_unified") ? Family::unified : Family::towers;
}

void refuse_other_variants(const Section& text) {
  const auto refuse = [&](const char* key, const char* what) {
    throw Error("{}: {} {} is not supported", text.where(), key, what);
  };
  if (text.get<std::string>("use_bidirectional_attention", "vision") != "vision")
    refuse("use_bidirectional_attention", "\"all\"");
  if (text.get("attention_bias", false)) refuse("attention_bias", "true");
  if (text.get("attention_dropout", 0.0) != 0.0) refuse("attention_dropout", "other than 0");
  if (text.get<std::string>("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh")
    refuse("hidden_activation", "other than gelu_pytorch_tanh");
  if (text.json().contains("pad_token_id") && !text.has("pad_token_id")) refuse("pad_token_id", "null");
}

void read_experts(const Section& text, TextConfig& config) {
  if (!text.get("enable_moe_block", false)) return;
  const auto size = [&](const char* key) {
    if (!text.has(key)) throw Error("{}: {} is missing, which enable_moe_block true needs", text.where(), key);
    return text.positive(key, 0);
  };
  config.num_experts = size("num_experts");
  config.top_k_experts = size("top_k_experts");
  config.moe_intermediate_size = size("moe_intermediate_size");
  if (config.top_k_experts > config.num_experts)
    throw Error("{}: top_k_experts {} is more than num_experts {}", text.where(), config.top_k_experts,
                config.num_experts);
  if (config.num_experts > largest_size / 2 / config.moe_intermediate_size)
    throw Error("{}: num_experts {} of moe_intermediate_size {} are more than {} rows in all", text.where(),
                config.num_experts, config.moe_intermediate_size, largest_size / 2);
}

void check_sizes(const Section& text, const TextConfig& config) {
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const LayerShape& layer = config.layers[i];
    if (config.num_attention_heads % layer.kv_heads != 0)
      throw Error("{}: layer {} has {} key/value heads, which do not divide num_attention_heads {}", text.where(), i,
                  layer.kv_heads, config.num_attention_heads);
    if (layer.head_dim % 2 != 0) throw Error("{}: layer {} has the odd head size {}", text.where(), i, layer.head_dim);
    const LayerType type = layer.is_sliding ? LayerType::sliding : LayerType::full;
    const LayerShape& first = *config.layer_of(type);
    if (layer.head_dim != first.head_dim || layer.kv_heads != first.kv_heads)
      throw Error("{}: layers {} and {} are both {} and differ in head size or key/value heads", text.where(),
                  &first - config.layers.data(), i, to_string(type));
  }
  if (config.rms_norm_eps < 0)
    throw Error("{}: rms_norm_eps is {}, it must be at least 0", text.where(), config.rms_norm_eps);
  if (config.final_logit_softcapping && *config.final_logit_softcapping <= 0)
    throw Error("{}: final_logit_softcapping is {}, it must be above 0", text.where(), *config.final_logit_softcapping);
  if (config.pad_token_id < 0 || config.pad_token_id >= config.vocab_size)
    throw Error("{}: pad_token_id {} is outside the vocabulary of {}", text.where(), config.pad_token_id,
                config.vocab_size);
  if (config.hidden_size_per_layer_input > 0 && config.vocab_size_per_layer_input < config.vocab_size)
    throw Error("{}: vocab_size_per_layer_input {} is less than vocab_size {}", text.where(),
                config.vocab_size_per_layer_input, config.vocab_size);
}

TextConfig defaults_of(Family family) {
  TextConfig config;
  if (family == Family::towers) return config;
  config.max_position_embeddings = 262144;
  config.sliding_window = 1024;
  config.hidden_size_per_layer_input = 0;
  config.bidirectional_images = true;
  return config;
}

TextConfig read_text(const Section& text, Family family, bool share_all_by_default) {
  refuse_other_variants(text);
  TextConfig config = defaults_of(family);
  config.vocab_size = text.positive("vocab_size", config.vocab_size);
  config.hidden_size = text.positive("hidden_size", config.hidden_size);
  config.intermediate_size = text.positive("intermediate_size", config.intermediate_size);
  config.num_hidden_layers = text.positive("num_hidden_layers", config.num_hidden_layers);
  if (config.num_hidden_layers > most_layers)
    throw Error("{}: num_hidden_layers is {}, it must be at most {}", text.where(), config.num_hidden_layers,
                most_layers);
  config.num_attention_heads = text.positive("num_attention_heads", config.num_attention_heads);
  config.rms_norm_eps = text.get("rms_norm_eps", config.rms_norm_eps);
  config.max_position_embeddings = text.positive("max_position_embeddings", config.max_position_embeddings);
  config.pad_token_id = text.get("pad_token_id", config.pad_token_id);
  config.sliding_window = text.at_least(2, "sliding_window", config.sliding_window);
  if (text.has("final_logit_softcapping")) config.final_logit_softcapping = text.get("final_logit_softcapping", 0.0f);
  config.hidden_size_per_layer_input =
      text.at_least(0, "hidden_size_per_layer_input", config.hidden_size_per_layer_input);
  if (family == Family::unified && config.hidden_size_per_layer_input > 0)
    throw Error("{}: hidden_size_per_layer_input is {}; the unified family has none", text.where(),
                config.hidden_size_per_layer_input);
  config.vocab_size_per_layer_input = text.at_least(0, "vocab_size_per_layer_input", config.vocab_size_per_layer_input);
  config.num_kv_shared_layers = text.at_least(0, "num_kv_shared_layers", 0);
  if (text.json().contains("use_bidirectional_attention"))  // null is an answer, too
    config.bidirectional_images = text.get<std::string>("use_bidirectional_attention", "") == "vision";
  if (share_all_by_default && config.num_kv_shared_layers == 0) config.num_kv_shared_layers = config.num_hidden_layers;
  for (const LayerType type : layer_types(text, config.num_hidden_layers))
    config.layers.push_back({.is_sliding = type == LayerType::sliding});
  read_heads(text, config.layers);
  read_sharing(text, config);
  read_experts(text, config);
  if (config.layer_of(LayerType::full) != nullptr) config.full_rope = read_rope(text, LayerType::full);
  if (config.layer_of(LayerType::sliding) != nullptr) config.sliding_rope = read_rope(text, LayerType::sliding);
  check_sizes(text, config);
  return config;
}

double read_rope_theta(const Section& vision) {
  if (!vision.has("rope_parameters")) return VisionConfig().rope_theta;
  const Section rope = vision.section("rope_parameters");
  const auto type = rope.get<std::string>("rope_type", "default");
  if (type != "default" && type != "axial")  // two names of the same
    throw Error("{}: rope_type {} is not supported; it must be default or axial", rope.where(), type);
  const double theta = rope.get("rope_theta", VisionConfig().rope_theta);
  if (theta <= 0) throw Error("{}: rope_theta is {}, it must be above 0", rope.where(), theta);
  return theta;
}

VisionConfig read_vision(const Section& vision) {
  const VisionConfig missing;
  const auto size = [&](const char* key, std::int64_t value) { return vision.positive(key, value); };
  VisionConfig config{.hidden_size = size("hidden_size", missing.hidden_size),
                      .intermediate_size = size("intermediate_size", missing.intermediate_size),
                      .num_hidden_layers = size("num_hidden_layers", missing.num_hidden_layers),
                      .num_attention_heads = size("num_attention_heads", missing.num_attention_heads),
                      .num_key_value_heads = size("num_key_value_heads", missing.num_key_value_heads),
                      .head_dim = size("head_dim", missing.head_dim),
                      .rms_norm_eps = vision.get("rms_norm_eps", missing.rms_norm_eps),
                      .patch_size = size("patch_size", missing.patch_size),
                      .pooling_kernel_size = size("pooling_kernel_size", missing.pooling_kernel_size),
                      .position_embedding_size = size("position_embedding_size", missing.position_embedding_size),
                      .rope_theta = read_rope_theta(vision),
                      .standardize = vision.get("standardize", false),
                      .use_clipped_linears = vision.get("use_clipped_linears", false)};
  if (const auto type = vision.get<std::string>("model_type", "gemma4_vision"); type != "gemma4_vision")
    throw Error("{}: model_type is \"{}\", expected \"gemma4_vision\"", vision.where(), type);
  if (const auto name = vision.get<std::string>("hidden_activation", "gelu_pytorch_tanh"); name != "gelu_pytorch_tanh")
    throw Error("{}: hidden_activation {} is not supported; it must be gelu_pytorch_tanh", vision.where(), name);
  if (config.num_hidden_layers > most_layers)
    throw Error("{}: num_hidden_layers is {}, it must be at most {}", vision.where(), config.num_hidden_layers,
                most_layers);
  if (config.head_dim % 4 != 0)
    throw Error("{}: head_dim is {}, it must be a multiple of 4", vision.where(), config.head_dim);
  if (config.num_attention_heads % config.num_key_value_heads != 0)
    throw Error("{}: num_key_value_heads {} does not divide num_attention_heads {}", vision.where(),
                config.num_key_value_heads, config.num_attention_heads);
  if (config.rms_norm_eps < 0)
    throw Error("{}: rms_norm_eps is {}, it must be at least 0", vision.where(), config.rms_norm_eps);
  return config;
}

/// Hugging Face's tables of relative positions count on these.
std::int64_t read_attention_span(const Section& audio) {
  const std::int64_t span = audio.at_least(2, "attention_context_left", 13) - 1;
  if (const auto right = audio.get<std::int64_t>("attention_context_right", 0); right != 0)
    throw Error("{}: attention_context_right is {}, it must be 0", audio.where(), right);
  if (const auto chunk = audio.positive("attention_chunk_size", 12); chunk != span)
    throw Error("{}: attention_chunk_size is {}, it must be attention_context_left - 1, which is {}", audio.where(),
                chunk, span);
  return span;
}

std::array<std::int64_t, 2> read_channels(const Section& audio) {
  const Json& list = audio.list("subsampling_conv_channels");
  std::vector<std::int64_t> channels;
  for (const Json& number : list) channels.push_back(try_get<std::int64_t>(number).value_or(0));
  if (channels.size() != 2 || channels[0] % 4 != 0 || std::ranges::min(channels) < 1 ||
      std::ranges::max(channels) > largest_size)
    throw Error("{}: subsampling_conv_channels must be two numbers above 0, the first a multiple of 4", audio.where());
  return {channels[0], channels[1]};
}

void check_audio(const Section& audio, const AudioConfig& config) {
  if (const auto type = audio.get<std::string>("model_type", "gemma4_audio"); type != "gemma4_audio")
    throw Error("{}: model_type is \"{}\", expected \"gemma4_audio\"", audio.where(), type);
  if (const auto name = audio.get<std::string>("hidden_act", "silu"); name != "silu")
    throw Error("{}: hidden_act {} is not supported; it must be silu", audio.where(), name);
  if (config.num_hidden_layers > most_layers)
    throw Error("{}: num_hidden_layers is {}, it must be at most {}", audio.where(), config.num_hidden_layers,
                most_layers);
  if (config.hidden_size % 2 != 0 || config.hidden_size % config.num_attention_heads != 0)
    throw Error("{}: hidden_size is {}, it must be even and a multiple of num_attention_heads, {}", audio.where(),
                config.hidden_size, config.num_attention_heads);
  for (const auto& [name, value] :
       {std::pair{"attention_logit_cap", config.attention_logit_cap}, std::pair{"gradient_clipping", config.clipping}})
    if (!(value > 0)) throw Error("{}: {} is {}, it must be above 0", audio.where(), name, value);
  if (config.rms_norm_eps < 0)
    throw Error("{}: rms_norm_eps is {}, it must be at least 0", audio.where(), config.rms_norm_eps);
}

AudioConfig read_audio(const Section& audio) {
  const AudioConfig missing;
  AudioConfig config{.hidden_size = audio.positive("hidden_size", missing.hidden_size),
                     .num_hidden_layers = audio.positive("num_hidden_layers", missing.num_hidden_layers),
                     .num_attention_heads = audio.positive("num_attention_heads", missing.num_attention_heads),
                     .conv_kernel_size = audio.positive("conv_kernel_size", missing.conv_kernel_size),
                     .attention_span = read_attention_span(audio),
                     .attention_logit_cap = audio.get("attention_logit_cap", missing.attention_logit_cap),
                     .residual_weight = audio.get("residual_weight", missing.residual_weight),
                     .clipping = audio.get("gradient_clipping", missing.clipping),
                     .rms_norm_eps = audio.get("rms_norm_eps", missing.rms_norm_eps),
                     .use_clipped_linears = audio.get("use_clipped_linears", missing.use_clipped_linears),
                     .output_size = audio.positive("output_proj_dims", missing.output_size)};
  if (audio.has("subsampling_conv_channels")) config.channels = read_channels(audio);
  check_audio(audio, config);
  return config;
}

PatchEmbedderConfig read_patch_embedder(const Section& vision) {
  const PatchEmbedderConfig missing;
  if (const auto type = vision.get<std::string>("model_type", "gemma4_unified_vision"); type != "gemma4_unified_vision")
    throw Error("{}: model_type is \"{}\", expected \"gemma4_unified_vision\"", vision.where(), type);
  PatchEmbedderConfig config{
      .patch_size = vision.positive("patch_size", 16) * vision.positive("pooling_kernel_size", 3),
      .embed_dim = vision.positive("mm_embed_dim", missing.embed_dim),
      .position_embedding_size = vision.positive("mm_posemb_size", missing.position_embedding_size),
      .rms_norm_eps = vision.get("rms_norm_eps", missing.rms_norm_eps)};
  if (config.patch_size > largest_patch)
    throw Error("{}: patches of {} pixels a side are too large; {} at most", vision.where(), config.patch_size,
                largest_patch);
  if (const auto width = vision.positive("output_proj_dims", missing.embed_dim); width != config.embed_dim)
    throw Error("{}: output_proj_dims is {}, mm_embed_dim is {}; they must be the same", vision.where(), width,
                config.embed_dim);
  if (config.rms_norm_eps < 0)
    throw Error("{}: rms_norm_eps is {}, it must be at least 0", vision.where(), config.rms_norm_eps);
  return config;
}

/// Four keys are names of one number.
FrameProjectorConfig read_frame_projector(const Section& audio) {
  FrameProjectorConfig config;
  if (const auto type = audio.get<std::string>("model_type", "gemma4_unified_audio"); type != "gemma4_unified_audio")
    throw Error("{}: model_type is \"{}\", expected \"gemma4_unified_audio\"", audio.where(), type);
  config.frame_size = audio.positive("audio_embed_dim", config.frame_size);
  for (const char* name : {"hidden_size", "output_proj_dims", "audio_samples_per_token"})
    if (const auto size = audio.positive(name, config.frame_size); size != config.frame_size)
      throw Error("{}: {} is {}, audio_embed_dim is {}; they must be the same", audio.where(), name, size,
                  config.frame_size);
  config.rms_norm_eps = audio.get("rms_norm_eps", config.rms_norm_eps);
  if (config.rms_norm_eps < 0)
    throw Error("{}: rms_norm_eps is {}, it must be at least 0", audio.where(), config.rms_norm_eps);
  return config;
}

/// What stands around text_config, and its model_type. The tie is decided here: Hugging Face does not ask text_config
/// for it.
std::string check_model(const Section& file, const std::vector<std::string>& expected) {
  const auto type = file.get<std::string>("model_type", "");
  if (std::ranges::count(expected, type) == 0)
    throw Error("{}: model_type is \"{}\", expected \"{}\"", file.where(), type, fmt::join(expected, "\" or \""));
  if (!file.get("tie_word_embeddings", true))
    throw Error("{}: tie_word_embeddings false is not supported", file.where());
  return type;
}

/// The base's shared layers need a layer of their type before them that has keys and values.
void check_stores(const std::string& where, const TextConfig& config) {
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const LayerShape& layer = config.layers[i];
    const bool has_store = std::any_of(config.layers.begin(), config.layers.end(), [&](const LayerShape& other) {
      return other.is_store && other.is_sliding == layer.is_sliding;
    });
    if (layer.shares_kv && !has_store)
      throw Error("{}: layer {} shares keys and values, but no {} layer has any of its own", where, i,
                  to_string(layer.is_sliding ? LayerType::sliding : LayerType::full));
  }
}

}  // namespace

std::string to_string(LayerType type) { return type == LayerType::full ? "full_attention" : "sliding_attention"; }

const LayerShape* TextConfig::layer_of(LayerType type) const {
  for (const LayerShape& layer : layers)
    if (layer.is_sliding == (type == LayerType::sliding)) return &layer;
  return nullptr;
}

std::vector<float> TextConfig::rope_inverse_frequencies(LayerType type) const {
  const LayerShape* layer = layer_of(type);
  if (layer == nullptr) return {};
  const RopeParameters& rope = type == LayerType::full ? full_rope : sliding_rope;
  const bool proportional = rope.rope_type == "proportional";
  const auto dim = static_cast<double>(layer->head_dim);
  const double rotated = proportional ? std::floor(rope.partial_rotary_factor * dim / 2) : dim / 2;
  std::vector<float> frequencies(layer->head_dim / 2, 0.0f);
  for (std::size_t i = 0; i < static_cast<std::size_t>(rotated); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    frequencies[i] = 1.0f / std::pow(static_cast<float>(rope.rope_theta), exponent);
    if (proportional) frequencies[i] /= static_cast<float>(rope.factor);
  }
  return frequencies;
}

std::vector<float> VisionConfig::rope_inverse_frequencies() const {
  std::vector<float> frequencies;
  for (std::int64_t i = 0; i < head_dim / 4; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim / 2);
    frequencies.push_back(1.0f / std::pow(static_cast<float>(rope_theta), exponent));
  }
  return frequencies;
}

BaseConfig read_base_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_base_config(read_json(path), path.string());
}

BaseConfig parse_base_config(const Json& json, const std::string& name) {
  const Section file(name, json);
  const std::string type = check_model(file, {"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"});
  const Family family = family_of(type);
  const bool is_alone = type.ends_with("_text");
  BaseConfig config{.file = name,
                    .model_type = type,
                    .prefix = is_alone ? "model." : "model.language_model.",
                    .text = read_text(is_alone ? file : file.section("text_config"), family, false),
                    .vision = {},
                    .patch_embedder = {},
                    .audio = {},
                    .frame_projector = {},
                    .image_token_id = file.get<std::int64_t>("image_token_id", 258880),
                    .video_token_id = file.get<std::int64_t>("video_token_id", 258884),
                    .audio_token_id = file.get<std::int64_t>("audio_token_id", 258881)};
  if (!is_alone && file.has("vision_config")) {
    const Section vision = file.section("vision_config");
    if (family == Family::towers)
      config.vision = read_vision(vision);
    else
      config.patch_embedder = read_patch_embedder(vision);
  }
  if (!is_alone && file.has("audio_config")) {
    const Section audio = file.section("audio_config");
    if (family == Family::unified)
      config.frame_projector = read_frame_projector(audio);
    else
      config.audio = read_audio(audio);
  }
  check_stores(name, config.text);
  return config;
}

DrafterConfig read_drafter_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_drafter_config(read_json(path), path.string());
}

DrafterConfig parse_drafter_config(const Json& json, const std::string& name) {
  const Section file(name, json);
  DrafterConfig config;
  config.file = name;
  config.model_type = check_model(file, {"gemma4_assistant", "gemma4_unified_assistant"});
  const Family family = family_of(config.model_type);
  const Section text = file.section("text_config");  // of whichever family's class it names
  config.text = read_text(text, family_of(text.get("model_type", config.model_type)), true);
  config.backbone_hidden_size = file.positive("backbone_hidden_size", family == Family::towers ? 1536 : 3840);
  config.use_ordered_embeddings = file.get("use_ordered_embeddings", false);
  config.num_centroids = file.positive("num_centroids", config.num_centroids);
  config.centroid_intermediate_top_k = file.positive("centroid_intermediate_top_k", config.centroid_intermediate_top_k);
  if (config.text.num_kv_shared_layers != config.text.num_hidden_layers)
    throw Error("{}: num_kv_shared_layers is {}; all {} layers of a drafter share", name,
                config.text.num_kv_shared_layers, config.text.num_hidden_layers);
  if (config.text.hidden_size_per_layer_input != 0)
    throw Error("{}: hidden_size_per_layer_input is {}; a drafter has none", name,
                config.text.hidden_size_per_layer_input);
  if (config.text.has_experts()) throw Error("{}: enable_moe_block is true; a drafter has no experts", name);
  if (config.use_ordered_embeddings && config.text.vocab_size % config.num_centroids != 0)
    throw Error("{}: num_centroids {} does not divide vocab_size {}", name, config.num_centroids,
                config.text.vocab_size);
  if (config.use_ordered_embeddings && config.centroid_intermediate_top_k > config.num_centroids)
    throw Error("{}: centroid_intermediate_top_k {} is more than num_centroids {}", name,
                config.centroid_intermediate_top_k, config.num_centroids);
  return config;
}

bool is_drafter(const Json& json) {
  const auto type = json.is_object() ? json.find("model_type") : json.end();
  return type != json.end() && type->is_string() && type->get<std::string>().ends_with("_assistant");
}

void check_fit(const BaseConfig& base, const DrafterConfig& drafter) {
  const std::string misfit = fmt::format("{} does not fit {}", drafter.file, base.file);
  const auto expect_equal = [&](const std::string& what, std::int64_t of_base, std::int64_t of_drafter) {
    if (of_base != of_drafter)
      throw Error("{}: {}: {} in the base, {} in the drafter", misfit, what, of_base, of_drafter);
  };
  expect_equal("hidden_size and backbone_hidden_size", base.text.hidden_size, drafter.backbone_hidden_size);
  expect_equal("vocab_size", base.text.vocab_size, drafter.text.vocab_size);
  for (const LayerType type : {LayerType::full, LayerType::sliding}) {
    const LayerShape* needed = drafter.text.layer_of(type);
    if (needed == nullptr) continue;
    const auto store = std::find_if(base.text.layers.begin(), base.text.layers.end(), [&](const LayerShape& layer) {
      return layer.is_store && layer.is_sliding == (type == LayerType::sliding);
    });
    if (store == base.text.layers.end())
      throw Error("{}: the drafter has {} layers, the base has no such layer with keys and values of its own", misfit,
                  to_string(type));
    expect_equal(to_string(type) + " head size", store->head_dim, needed->head_dim);
    expect_equal(to_string(type) + " key/value heads", store->kv_heads, needed->kv_heads);
  }
}

}  // namespace mtp::hf
