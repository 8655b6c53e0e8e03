#include "mtp/model/base_model.h"

#include <algorithm>
#include <cmath>

namespace mtp::model {

namespace {

float sqrt_of(std::int64_t width) { return static_cast<float>(std::sqrt(static_cast<double>(width))); }

}  // namespace

BaseModel::BaseModel(const hf::BaseConfig& config, const Settings::Freeze& freeze)
    : config_(config.text), special_ids_(config.special_ids), types_(causal_attention(config.text, 0)) {
  const bool trained = !freeze.base, tables_trained = trained && !freeze.embeddings;
  const std::int64_t hidden = config_.hidden_size, width = config_.hidden_size_per_layer_input,
                     layers = config_.num_hidden_layers;
  const Tensors all(records_, config.prefix);
  const auto in_unit = [&](const std::string& unit) { return all.in_unit("base." + unit, trained); };
  const auto table = [&](const std::string& name) { return all.in_unit("base." + name, tables_trained); };

  embedding_ = table("embed_tokens").table("embed_tokens", config_.vocab_size, hidden);
  if (width > 0) {
    per_layer_embedding_ = table("embed_tokens_per_layer")
                               .table("embed_tokens_per_layer", config_.vocab_size_per_layer_input, width, layers);
    per_layer_model_projection_ = in_unit("head").matrix("per_layer_model_projection", layers * width, hidden);
    per_layer_projection_norm_ = in_unit("head").vector("per_layer_projection_norm", width);
  }
  for (int i = 0; i < layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.emplace_back(in_unit(name).below(name + "."), config_, i, Attention::UnusedKeyValue::declared);
  }
  final_norm_ = in_unit("head").vector("norm", hidden);
}

void BaseModel::read_buffers(const hf::TensorFiles& files) {
  for (DecoderLayer& layer : layers_) layer.read_buffers(files);
}

/// An image, a video or a sound brings features of its own, which take the place of its tokens' rows.
std::vector<std::int64_t> BaseModel::looked_up(std::span<const std::int64_t> ids) const {
  std::vector<std::int64_t> rows(ids.begin(), ids.end());
  for (std::int64_t& id : rows)
    if (std::ranges::count(special_ids_, id) > 0) id = config_.pad_token_id;
  return rows;
}

Graph::Lookup BaseModel::lookup(Graph& g, const Tokens& tokens) const {
  return g.lookup(embedding_, tokens, sqrt_of(config_.hidden_size));
}

Value BaseModel::per_layer_inputs(Graph& g, const Value& embeddings_TH, const Tokens& tokens) const {
  const std::int64_t count = embeddings_TH.data.size(0), width = config_.hidden_size_per_layer_input;
  const std::int64_t layers = config_.num_hidden_layers;
  const auto projection_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.hidden_size)));

  Value context = g.scale(g.linear(embeddings_TH, *per_layer_model_projection_), projection_scale);
  context = g.rms_norm(g.view(context, {count * layers, width}), *per_layer_projection_norm_, config_.rms_norm_eps);
  const Graph::Scope table = g.scope(per_layer_embedding_->group(), Graph::Use::rows);
  const Value identity = g.lookup(*per_layer_embedding_, tokens, sqrt_of(width)).rows;
  return g.add_scaled(g.view(context, {count, layers * width}), identity, static_cast<float>(std::sqrt(0.5)));
}

BaseOutput BaseModel::forward(Graph& g, const Tokens& tokens) const {
  BaseOutput out;
  const auto [embeddings_TH, fill_row_1H] = lookup(g, tokens);
  out.embeddings_TH = embeddings_TH;
  out.fill_row_1H = fill_row_1H;

  const Graph::Scope head = g.scope(final_norm_.group());
  std::optional<Value> per_layer;
  if (per_layer_embedding_) per_layer = per_layer_inputs(g, out.embeddings_TH, tokens);

  Value x_TH = out.embeddings_TH;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const DecoderLayer& layer = layers_[i];
    std::optional<KeyValue>& store = out.stores.of(layer.shape());
    DecoderLayer::Inputs in{.types = types_};
    if (layer.shape().shares_kv) in.shared = store;
    if (per_layer) {
      const std::int64_t width = config_.hidden_size_per_layer_input;
      in.per_layer_input_TP = g.columns(*per_layer, static_cast<std::int64_t>(i) * width, width);
    }
    const std::vector<Graph::Scope> weights = open_units(g, layer.parameters());
    auto [y_TH, stored] = layer.forward(g, x_TH, in);
    if (stored) store = stored;
    x_TH = y_TH;
  }
  out.hidden_TH = g.rms_norm(x_TH, final_norm_, config_.rms_norm_eps);
  return out;
}

std::vector<Graph::Scope> open_units(Graph& g, std::span<const Parameter> parameters, const UseOf& use) {
  std::vector<const ParameterGroup*> groups;
  std::vector<Graph::Scope> scopes;
  for (const Parameter& parameter : parameters) {
    ParameterGroup& group = parameter.group();
    if (std::ranges::count(groups, &group) > 0) continue;
    groups.push_back(&group);
    scopes.push_back(g.scope(group, use ? use(group) : Graph::Use::values));
  }
  return scopes;
}

}  // namespace mtp::model
