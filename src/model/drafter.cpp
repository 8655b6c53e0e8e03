#include "mtp/model/drafter.h"

#include <algorithm>

#include "mtp/core/error.h"
#include "mtp/model/open_units.h"

namespace mtp::model {

Drafter::Drafter(const hf::DrafterConfig& config, std::int64_t rounds, const Settings::Lora& lora) : config_(config) {
  const hf::TextConfig& text = config_.text;
  const std::int64_t hidden = text.hidden_size, backbone = config_.backbone_hidden_size;
  const Tensors all = Tensors(records_, "").with_adapters(lora.of_drafter() ? &lora : nullptr);
  const auto in_unit = [&](const std::string& unit, bool is_used = true) {
    const Tensors tensors = all.in_unit("drafter." + unit, is_used && !lora.of_drafter());
    return is_used ? tensors : tensors.with_adapters(nullptr);
  };
  pre_projection_ = in_unit("head").linear("pre_projection", hidden, 2 * backbone);
  for (int i = 0; i < text.num_hidden_layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.emplace_back(in_unit(name).below("model." + name + "."), text, i, Attention::UnusedKeyValue::none);
  }
  final_norm_ = in_unit("head").vector("model.norm", hidden);
  post_projection_ = in_unit("head", rounds > 1).linear("post_projection", backbone, hidden);
  embedding_ = in_unit("embed_tokens").table("model.embed_tokens", text.vocab_size, hidden);
  if (config_.use_ordered_embeddings) {
    centroids_ = in_unit("head", false).matrix("masked_embedding.centroids", config_.num_centroids, hidden);
    ordering_buffer_ =
        all.buffer("masked_embedding.token_ordering", {text.vocab_size}, {Start::Kind::permutation}, "I64");
  }
  parameters_ = all.declared();
}

void Drafter::read_buffers(const hf::TensorFiles& files) {
  for (DecoderLayer& layer : layers_) layer.read_buffers(files);
  if (!centroids_) return;
  token_ordering_ = files.read_int64(ordering_buffer_.name);
  const std::int64_t vocabulary = config_.text.vocab_size;
  std::vector<bool> seen(static_cast<std::size_t>(vocabulary), false);
  for (const std::int64_t token : token_ordering_)
    if (token >= 0 && token < vocabulary) seen[static_cast<std::size_t>(token)] = true;
  if (std::ssize(token_ordering_) != vocabulary || std::ranges::count(seen, false) > 0)
    throw Error("{}: tensor {} is no permutation of the {} tokens", files.where(), ordering_buffer_.name, vocabulary);
}

RoundAlignment Drafter::alignment(const Settings::Drafter& settings) const {
  const hf::TextConfig& text = config_.text;
  if (settings.alignment == Alignment::serving)
    return {.types = causal_attention(text, settings.position_offset), .first_lead = 1};
  using Kind = ops::AttentionMask::Kind;
  AttentionTypes types = causal_attention(text, 0);
  types.full.mask = {.kind = Kind::everything};
  types.sliding.mask = {.kind = Kind::mirrored, .window = text.sliding_window};
  return {.types = std::move(types), .first_lead = 0};
}

std::vector<Graph::Scope> Drafter::open(Graph& g) const {
  // The table's gradient is complete with the losses.
  return open_units(g, parameters_, [&](const ParameterGroup& group) {
    return &group == &embedding_.group() ? Graph::Use::forward_values : Graph::Use::values;
  });
}

void Drafter::run_rounds(Graph& g, const RoundAlignment& alignment, std::int64_t count, Value state_TH,
                         const Stores& stores, const TokensOf& tokens, const Use& use) const {
  for (std::int64_t k = 0; k < count; ++k) {
    const Value hidden_TD = round(g, alignment, tokens(k), state_TH, stores);
    use(k, hidden_TD);
    if (k + 1 < count) state_TH = g.linear(hidden_TD, post_projection_);
  }
}

Value Drafter::round(Graph& g, const RoundAlignment& alignment, const Value& tokens_TH, const Value& state_TH,
                     const Stores& stores) const {
  Value x_TD = g.linear(g.concat_columns(tokens_TH, state_TH), pre_projection_);
  for (const DecoderLayer& layer : layers_)
    x_TD = layer.forward(g, x_TD, {.types = alignment.types, .shared = stores.of(layer.shape())}).x_TH;
  return g.rms_norm(x_TD, final_norm_, config_.text.rms_norm_eps);
}

ops::MaskedHead Drafter::masked_head(const Tensor& ordering) const {
  return {.centroids = centroids_->value(), .ordering = ordering, .top_k = config_.centroid_intermediate_top_k};
}

}  // namespace mtp::model
