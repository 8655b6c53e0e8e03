#include "mtp/model/base_model.h"

#include <algorithm>
#include <cmath>

namespace mtp::model {

AttentionTypes causal_attention(const hf::TextConfig& config, std::int64_t offset) {
  using Kind = ops::AttentionMask::Kind;
  return {.full = {.mask = {.kind = Kind::causal, .window = 0, .offset = offset},
                   .rope = {config.rope_inverse_frequencies(hf::LayerType::full), offset}},
          .sliding = {.mask = {.kind = Kind::causal, .window = config.sliding_window, .offset = offset},
                      .rope = {config.rope_inverse_frequencies(hf::LayerType::sliding), offset}}};
}

BaseModel::BaseModel(const hf::BaseConfig& config, const std::vector<float>& layer_scalars,
                     const Parameters& parameters)
    : config_(config.text), special_ids_(config.special_ids), types_(causal_attention(config.text, 0)) {
  const std::string prefix = "base.model.language_model.";
  for (int i = 0; i < config_.num_hidden_layers; ++i)
    layers_.emplace_back(config_, i, prefix + "layers." + std::to_string(i) + ".", layer_scalars[i], parameters,
                         types_);
  embedding_ = parameters.get(base_embedding);
  final_norm_ = parameters.get(prefix + "norm.weight");
  if (config_.hidden_size_per_layer_input > 0) {
    per_layer_embedding_ = parameters.get(base_per_layer_embedding);
    per_layer_model_projection_ = parameters.get(prefix + "per_layer_model_projection.weight");
    per_layer_projection_norm_ = parameters.get(prefix + "per_layer_projection_norm.weight");
  }
}

Value BaseModel::per_layer_inputs(Graph& g, const Value& embeddings_TH, std::span<const std::int64_t> ids) const {
  const std::int64_t rows = static_cast<std::int64_t>(ids.size()), width = config_.hidden_size_per_layer_input;
  const std::int64_t packed = config_.num_hidden_layers * width;
  const auto projection_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.hidden_size)));
  const auto table_scale = static_cast<float>(std::sqrt(static_cast<double>(width)));

  Value context = g.scale(g.linear(embeddings_TH, *per_layer_model_projection_), projection_scale);
  context = g.rms_norm(g.view(context, {rows * config_.num_hidden_layers, width}), *per_layer_projection_norm_,
                       config_.rms_norm_eps);
  const Graph::Scope table = g.scope(*per_layer_embedding_->group, Graph::Use::rows);
  const Value identity = g.lookup(*per_layer_embedding_, ids, table_scale, config_.pad_token_id).rows;
  return g.add_scaled(g.view(context, {rows, packed}), identity, static_cast<float>(std::sqrt(0.5)));
}

Graph::Lookup BaseModel::embed(Graph& g, std::span<const std::int64_t> ids) const {
  const auto scale = static_cast<float>(std::sqrt(static_cast<double>(config_.hidden_size)));
  return g.lookup(embedding_, ids, scale, config_.pad_token_id);
}

/// In the place of an image, a video or a sound stand its own features, not the row of its token.
std::vector<std::int64_t> BaseModel::looked_up(std::span<const std::int64_t> ids) const {
  std::vector<std::int64_t> rows(ids.begin(), ids.end());
  for (std::int64_t& id : rows)
    if (std::ranges::count(special_ids_, id) > 0) id = config_.pad_token_id;
  return rows;
}

BaseOutput BaseModel::forward(Graph& g, const ops::Sequences& sequences, std::span<const std::int64_t> tokens,
                              KeyValueCache* cache) const {
  const std::vector<std::int64_t> ids = looked_up(tokens);
  const auto [embeddings_TH, pad_row_1H] = embed(g, ids);

  BaseOutput out;
  out.embeddings_TH = embeddings_TH;
  out.pad_row_1H = pad_row_1H;

  const Graph::Scope head = g.scope(*final_norm_.group);
  std::optional<Value> per_layer;
  if (per_layer_embedding_) per_layer = per_layer_inputs(g, out.embeddings_TH, ids);

  Value x_TH = out.embeddings_TH;
  for (int i = 0; i < config_.num_hidden_layers; ++i) {
    const DecoderLayer& layer = layers_[i];
    std::optional<KeyValue>& store = layer.is_sliding() ? out.sliding : out.full;
    const hf::LayerShape shape = config_.layer(i);
    DecoderLayer::Inputs in{.sequences = sequences, .shared = {}, .per_layer_input_TP = {}, .cache = cache};
    if (shape.shares_kv) in.shared = store;
    if (per_layer) {
      const std::int64_t width = config_.hidden_size_per_layer_input;
      in.per_layer_input_TP = g.columns(*per_layer, i * width, width);
    }
    const Graph::Scope weights = g.scope(layer.group());
    auto [y_TH, stored] = layer.forward(g, x_TH, in, shape.is_store);
    if (stored) store = stored;
    x_TH = y_TH;
  }
  out.hidden_TH = g.rms_norm(x_TH, final_norm_, config_.rms_norm_eps);
  return out;
}

}  // namespace mtp::model
