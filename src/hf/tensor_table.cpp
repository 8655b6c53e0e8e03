#include "mtp/hf/tensor_table.h"

#include <algorithm>
#include <regex>
#include <set>

#include "mtp/core/error.h"

namespace mtp::hf {

bool is_unused_kv(const TextConfig& config, const std::string& name) {
  static const std::regex pattern(
      R"((?:model\.|model\.language_model\.)layers\.(\d{1,6})\.self_attn\.(?:k_proj|v_proj|k_norm|v_norm)\.weight)");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) return false;
  const std::int64_t layer = std::stol(match[1]);
  return layer < config.num_hidden_layers && config.layer(layer).shares_kv;
}

namespace {

/// A parameter of a model. Those to be carried may be missing in a file, and have any shape and type.
struct Expected {
  std::string name;  // in the file
  Shape shape;
  std::string unit;  // without the model's name
  Role role;
};

Role role_of(bool trained) { return trained ? Role::trained : Role::frozen; }

/// Released files hold keys' and values' parameters of layers that share them, too; they are not used.
enum class UnusedKv { none, carried };

void expect_layer(const TextConfig& config, std::int64_t i, const std::string& prefix, bool trained, UnusedKv unused,
                  std::vector<Expected>& all) {
  const LayerShape& layer = config.layer(i);
  const std::int64_t hidden = config.hidden_size, heads = config.num_attention_heads * layer.head_dim,
                     kv = layer.kv_heads * layer.head_dim, inner = layer.intermediate_size,
                     per_layer = config.hidden_size_per_layer_input;
  const std::string unit = "layers." + std::to_string(i);
  const auto expect_as = [&](Role role, const char* name, Shape shape) {
    all.push_back({prefix + unit + "." + name + ".weight", std::move(shape), unit, role});
  };
  const auto expect = [&](const char* name, Shape shape) { expect_as(role_of(trained), name, std::move(shape)); };
  expect("input_layernorm", {hidden});
  expect("self_attn.q_proj", {heads, hidden});
  expect("self_attn.q_norm", {layer.head_dim});
  if (!layer.shares_kv || unused == UnusedKv::carried) {
    const Role role = layer.shares_kv ? Role::carried : role_of(trained);
    expect_as(role, "self_attn.k_proj", {kv, hidden});
    expect_as(role, "self_attn.k_norm", {layer.head_dim});
    if (!layer.k_eq_v) expect_as(role, "self_attn.v_proj", {kv, hidden});
  }
  expect("self_attn.o_proj", {hidden, heads});
  expect("post_attention_layernorm", {hidden});
  expect("pre_feedforward_layernorm", {hidden});
  expect("mlp.gate_proj", {inner, hidden});
  expect("mlp.up_proj", {inner, hidden});
  expect("mlp.down_proj", {hidden, inner});
  expect("post_feedforward_layernorm", {hidden});
  if (per_layer > 0) {
    expect("per_layer_input_gate", {per_layer, hidden});
    expect("per_layer_projection", {hidden, per_layer});
    expect("post_per_layer_input_norm", {hidden});
  }
}

std::vector<Expected> expected_of_base(const BaseConfig& base, const Settings::Freeze& freeze) {
  const TextConfig& config = base.text;
  const std::string& prefix = base.prefix;
  const bool trained = !freeze.base, tables_trained = trained && !freeze.embeddings;
  const std::int64_t packed = config.num_hidden_layers * config.hidden_size_per_layer_input;
  std::vector<Expected> all;
  all.push_back({prefix + "embed_tokens.weight",
                 {config.vocab_size, config.hidden_size},
                 "embed_tokens",
                 role_of(tables_trained)});
  if (packed > 0) {
    all.push_back({prefix + "embed_tokens_per_layer.weight",
                   {config.vocab_size_per_layer_input, packed},
                   "embed_tokens_per_layer",
                   role_of(tables_trained)});
    all.push_back(
        {prefix + "per_layer_model_projection.weight", {packed, config.hidden_size}, "head", role_of(trained)});
    all.push_back(
        {prefix + "per_layer_projection_norm.weight", {config.hidden_size_per_layer_input}, "head", role_of(trained)});
  }
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i)
    expect_layer(config, i, prefix, trained, UnusedKv::carried, all);
  all.push_back({prefix + "norm.weight", {config.hidden_size}, "head", role_of(trained)});
  return all;
}

std::vector<Expected> expected_of_drafter(const DrafterConfig& config, std::int64_t rounds) {
  const TextConfig& text = config.text;
  std::vector<Expected> all;
  all.push_back({"pre_projection.weight", {text.hidden_size, 2 * config.backbone_hidden_size}, "head", Role::trained});
  for (std::int64_t i = 0; i < text.num_hidden_layers; ++i) expect_layer(text, i, "model.", true, UnusedKv::none, all);
  all.push_back({"model.norm.weight", {text.hidden_size}, "head", Role::trained});
  // Only a next round uses it, so one round gives it no gradient.
  all.push_back(
      {"post_projection.weight", {config.backbone_hidden_size, text.hidden_size}, "head", role_of(rounds > 1)});
  all.push_back({"model.embed_tokens.weight", {text.vocab_size, text.hidden_size}, "embed_tokens", Role::trained});
  if (config.use_ordered_embeddings)
    all.push_back(
        {"masked_embedding.centroids.weight", {config.num_centroids, text.hidden_size}, "head", Role::frozen});
  return all;
}

std::vector<TensorEntry> with_layer_scalars(const std::vector<Expected>& parameters, const std::string& prefix,
                                            std::int64_t layers) {
  std::vector<TensorEntry> all, unused;
  for (const Expected& parameter : parameters)
    (parameter.role == Role::carried ? unused : all).push_back({parameter.name, "F32", parameter.shape});
  for (std::int64_t i = 0; i < layers; ++i)
    all.push_back({prefix + "layers." + std::to_string(i) + ".layer_scalar", "F32", {1}});
  all.insert(all.end(), unused.begin(), unused.end());
  return all;
}

bool is_media(const std::string& name) {
  static const std::regex pattern(R"(model\.(vision_tower|audio_tower|embed_vision|embed_audio)\..*)");
  return std::regex_match(name, pattern);
}

bool is_buffer(const std::string& name) {
  static const std::regex pattern(
      R"((model\.|model\.language_model\.)layers\.\d+\.layer_scalar|masked_embedding\.token_ordering|.*inv_freq|.*embed_scale)");
  return std::regex_match(name, pattern);
}

bool is_floating(const std::string& dtype) { return dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

/// Whether two tensors of a shape, of whatever floating types, have the same values.
bool same_values(const TensorFiles& files, const std::string& a, const std::string& b) {
  constexpr std::int64_t block = 1 << 16;
  const std::int64_t elements = num_elements(files.info(a).shape);
  for (std::int64_t begin = 0; begin < elements; begin += block) {
    std::vector<float> of_a(std::min(block, elements - begin)), of_b(of_a.size());
    files.read(a, begin, of_a);
    files.read(b, begin, of_b);
    if (of_a != of_b) return false;
  }
  return true;
}

/// An explicit lm_head is accepted where it says what the tie says.
void check_tied_head(const TensorFiles& files, const std::string& embedding) {
  const std::string head = "lm_head.weight";
  if (files.info(head).shape != files.info(embedding).shape || !same_values(files, head, embedding))
    throw Error("{}: lm_head.weight differs from {}; an untied output projection is not supported", files.where(),
                embedding);
}

/// Accounts for the tensors of one model.
class Accounts {
 public:
  Accounts(std::string model, const TextConfig& config, const TensorFiles& files)
      : model_(std::move(model)), config_(config), files_(files) {}

  void take(const std::vector<Expected>& expected, std::vector<TensorInfo>& tensors) {
    for (const Expected& parameter : expected) {
      if (parameter.role == Role::carried) continue;  // with the rest, where it is there
      const TensorEntry& found = files_.info(parameter.name);
      check_shapes(files_, {{parameter.name, found.dtype, parameter.shape}});
      if (!is_floating(found.dtype))
        throw Error("{}: tensor {} has type {}; F32, BF16 or F16 is needed", files_.where(), parameter.name,
                    found.dtype);
      known_.insert(parameter.name);
      tensors.push_back(
          {model_ + "." + parameter.name, found.dtype, found.shape, parameter.role, model_ + "." + parameter.unit});
    }
  }

  void take_rest(const std::string& embedding, std::vector<TensorInfo>& tensors) {
    for (const std::string& name : files_.names()) {
      if (known_.contains(name)) continue;
      if (is_buffer(name) || is_unused_kv(config_, name) || (model_ == "base" && is_media(name)))
        tensors.push_back({model_ + "." + name, files_.info(name).dtype, files_.info(name).shape, Role::carried, ""});
      else if (name == "lm_head.weight")
        check_tied_head(files_, embedding);
      else
        throw Error("{}: tensor {} is unknown: the config has no place for it", files_.where(), name);
    }
  }

 private:
  std::string model_;
  const TextConfig& config_;
  const TensorFiles& files_;
  std::set<std::string> known_;
};

/// A unit is trained or frozen as a whole: the frozen part of a mixed one becomes a unit of its own.
void split_mixed_units(std::vector<TensorInfo>& tensors) {
  std::set<std::string> with_trained;
  for (const TensorInfo& tensor : tensors)
    if (tensor.role == Role::trained) with_trained.insert(tensor.unit);
  for (TensorInfo& tensor : tensors)
    if (tensor.role == Role::frozen && with_trained.contains(tensor.unit)) tensor.unit += ".frozen";
}

}  // namespace

std::vector<TensorEntry> tensors_of(const BaseConfig& config) {
  return with_layer_scalars(expected_of_base(config, {}), config.prefix, config.text.num_hidden_layers);
}

std::vector<TensorEntry> tensors_of(const DrafterConfig& config) {
  constexpr std::int64_t rounds = 1;  // decide what is trained, not what there is
  auto all = with_layer_scalars(expected_of_drafter(config, rounds), "model.", config.text.num_hidden_layers);
  if (config.use_ordered_embeddings)
    all.push_back({"masked_embedding.token_ordering", "I64", {config.text.vocab_size}});
  return all;
}

void check_shapes(const TensorFiles& files, const std::vector<TensorEntry>& needed) {
  for (const TensorEntry& tensor : needed)
    if (const Shape& found = files.info(tensor.name).shape; found != tensor.shape)
      throw Error("{}: tensor {} has shape {}, the config needs {}", files.where(), tensor.name, mtp::to_string(found),
                  mtp::to_string(tensor.shape));
}

TensorTable::TensorTable(const BaseConfig& base, const TensorFiles& base_files, const DrafterConfig& drafter,
                         const TensorFiles& drafter_files, const Settings& settings) {
  Accounts of_base("base", base.text, base_files), of_drafter("drafter", drafter.text, drafter_files);
  of_base.take(expected_of_base(base, settings.freeze), tensors_);
  of_base.take_rest(base.prefix + "embed_tokens.weight", tensors_);
  of_drafter.take(expected_of_drafter(drafter, settings.drafter.rounds), tensors_);
  of_drafter.take_rest("model.embed_tokens.weight", tensors_);
  split_mixed_units(tensors_);
}

void TensorTable::freeze() {
  for (TensorInfo& tensor : tensors_)
    if (tensor.role == Role::trained) tensor.role = Role::frozen;
}

}  // namespace mtp::hf
