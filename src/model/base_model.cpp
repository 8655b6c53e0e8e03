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
  const std::string prefix = "base." + config.prefix;
  for (int i = 0; i < config_.num_hidden_layers; ++i)
    layers_.emplace_back(config_, i, prefix + "layers." + std::to_string(i) + ".", layer_scalars[i], parameters,
                         types_);
  embedding_ = parameters.get(prefix + "embed_tokens.weight");
  final_norm_ = parameters.get(prefix + "norm.weight");
  if (config_.hidden_size_per_layer_input > 0) {
    per_layer_embedding_ = parameters.get(prefix + "embed_tokens_per_layer.weight");
    per_layer_model_projection_ = parameters.get(prefix + "per_layer_model_projection.weight");
    per_layer_projection_norm_ = parameters.get(prefix + "per_layer_projection_norm.weight");
  }
}

Value BaseModel::per_layer_inputs(Graph& g, const Value& embeddings_TH, const Lookup& lookup) const {
  const std::int64_t count = embeddings_TH.data.size(0), width = config_.hidden_size_per_layer_input;
  const std::int64_t packed = config_.num_hidden_layers * width;
  const auto projection_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.hidden_size)));
  const auto table_scale = static_cast<float>(std::sqrt(static_cast<double>(width)));

  Value context = g.scale(g.linear(embeddings_TH, *per_layer_model_projection_), projection_scale);
  context = g.rms_norm(g.view(context, {count * config_.num_hidden_layers, width}), *per_layer_projection_norm_,
                       config_.rms_norm_eps);
  const Graph::Scope table = g.scope(*per_layer_embedding_->group, Graph::Use::rows);
  const Value identity = lookup(*per_layer_embedding_, table_scale);
  return g.add_scaled(g.view(context, {count, packed}), identity, static_cast<float>(std::sqrt(0.5)));
}

float BaseModel::embedding_scale() const {
  return static_cast<float>(std::sqrt(static_cast<double>(config_.hidden_size)));
}

/// In the place of an image, a video or a sound stand its own features, not the row of its token.
std::vector<std::int64_t> BaseModel::looked_up(std::span<const std::int64_t> ids) const {
  std::vector<std::int64_t> rows(ids.begin(), ids.end());
  for (std::int64_t& id : rows)
    if (std::ranges::count(special_ids_, id) > 0) id = config_.pad_token_id;
  return rows;
}

Value BaseModel::embed(Graph& g, const Tensor& ids) const { return g.lookup(embedding_, ids, embedding_scale()); }

BaseOutput BaseModel::forward(Graph& g, const ops::Sequences& sequences, std::span<const std::int64_t> tokens) const {
  const std::vector<std::int64_t> ids = looked_up(tokens);
  const auto [embeddings_TH, pad_row_1H] = g.lookup(embedding_, ids, embedding_scale(), config_.pad_token_id);
  const auto lookup = [&](const Parameter& table, float factor) {
    return g.lookup(table, ids, factor, config_.pad_token_id).rows;
  };
  BaseOutput out = run(g, sequences, embeddings_TH, lookup, nullptr);
  out.pad_row_1H = pad_row_1H;
  return out;
}

BaseOutput BaseModel::forward(Graph& g, const ops::Sequences& sequences, const Tensor& ids,
                              KeyValueCache& cache) const {
  const auto lookup = [&](const Parameter& table, float factor) { return g.lookup(table, ids, factor); };
  return run(g, sequences, embed(g, ids), lookup, &cache);
}

BaseOutput BaseModel::run(Graph& g, const ops::Sequences& sequences, const Value& embeddings_TH, const Lookup& lookup,
                          KeyValueCache* cache) const {
  BaseOutput out;
  out.embeddings_TH = embeddings_TH;

  const Graph::Scope head = g.scope(*final_norm_.group);
  std::optional<Value> per_layer;
  if (per_layer_embedding_) per_layer = per_layer_inputs(g, embeddings_TH, lookup);

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
