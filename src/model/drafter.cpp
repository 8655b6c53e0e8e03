#include "mtp/model/drafter.h"

namespace mtp::model {

namespace {

AttentionTypes drafter_attention(const hf::TextConfig& config, const Settings::Drafter& settings) {
  if (settings.alignment == Alignment::serving) return causal_attention(config, settings.position_offset);
  using Kind = ops::AttentionMask::Kind;
  AttentionTypes types = causal_attention(config, 0);
  types.full.mask = {.kind = Kind::everything};
  types.sliding.mask = {.kind = Kind::mirrored, .window = config.sliding_window};
  return types;
}

}  // namespace

Tensor token_ordering(Device& device, const hf::Pair& pair) {
  if (!pair.drafter_config.use_ordered_embeddings) return {};
  return device.from_host(pair.token_ordering);
}

Drafter::Drafter(const hf::DrafterConfig& config, const Settings::Drafter& settings,
                 const std::vector<float>& layer_scalars, const Tensor& token_ordering, const Parameters& parameters)
    : config_(config),
      first_lead_(settings.alignment == Alignment::serving ? 1 : 0),
      types_(drafter_attention(config.text, settings)),
      token_ordering_(token_ordering) {
  for (int i = 0; i < config_.text.num_hidden_layers; ++i)
    layers_.emplace_back(config_.text, i, "drafter.model.layers." + std::to_string(i) + ".", layer_scalars[i],
                         parameters, types_);
  embedding_ = parameters.get(drafter_embedding);
  pre_projection_ = parameters.get("drafter.pre_projection.weight");
  post_projection_ = parameters.get("drafter.post_projection.weight");
  final_norm_ = parameters.get("drafter.model.norm.weight");
  if (config_.use_ordered_embeddings) centroids_ = parameters.get("drafter.masked_embedding.centroids.weight");
  for (parallel::ShardedUnit* unit : parameters.units_of("drafter.")) groups_.push_back(unit);
}

std::vector<Graph::Scope> Drafter::open(Graph& g) const {
  std::vector<Graph::Scope> scopes;
  for (ParameterGroup* group : groups_) {
    const bool is_table = group == embedding_.group;  // its gradient is complete with the losses
    scopes.push_back(g.scope(*group, is_table ? Graph::Use::forward_values : Graph::Use::values));
  }
  return scopes;
}

Value Drafter::round(Graph& g, const ops::Sequences& sequences, const Value& tokens_TH, const Value& state_TH,
                     const BaseOutput& base) const {
  Value x_TD = g.linear(g.concat_columns(tokens_TH, state_TH), pre_projection_);
  for (const DecoderLayer& layer : layers_) {
    const std::optional<KeyValue>& store = layer.is_sliding() ? base.sliding : base.full;
    x_TD = layer.forward(g, x_TD, {.sequences = sequences, .shared = store, .per_layer_input_TP = {}}).x_TH;
  }
  return g.rms_norm(x_TD, final_norm_, config_.text.rms_norm_eps);
}

ops::MaskedHead Drafter::masked_head() const {
  return {.centroids = centroids_->value(), .ordering = token_ordering_, .top_k = config_.centroid_intermediate_top_k};
}

}  // namespace mtp::model
