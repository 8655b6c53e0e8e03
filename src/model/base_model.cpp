#include "mtp/model/base_model.h"

#include <algorithm>
#include <cmath>

#include "mtp/model/open_units.h"

namespace mtp::model {

namespace {

float sqrt_of(std::int64_t width) { return static_cast<float>(std::sqrt(static_cast<double>(width))); }

}  // namespace

BaseModel::BaseModel(const hf::BaseConfig& config, const Settings::Freeze& freeze, Parts parts,
                     const Settings::Lora& lora)
    : config_(config.text),
      special_ids_(config.special_ids()),
      image_token_id_(config.image_token_id),
      video_token_id_(config.video_token_id),
      audio_token_id_(config.audio_token_id),
      types_(causal_attention(config.text, 0)) {
  const bool trained = !freeze.base && !lora.of_base(), tables_trained = trained && !freeze.embeddings;
  const std::int64_t hidden = config_.hidden_size, width = config_.hidden_size_per_layer_input,
                     layers = config_.num_hidden_layers;
  const Tensors all = Tensors(records_, config.prefix).with_adapters(lora.of_base() ? &lora : nullptr);
  const auto in_unit = [&](const std::string& unit) { return all.in_unit("base." + unit, trained); };
  const auto table = [&](const std::string& name) { return all.in_unit("base." + name, tables_trained); };

  embedding_ = table("embed_tokens").table("embed_tokens", config_.vocab_size, hidden);
  if (width > 0) {
    per_layer_embedding_ = table("embed_tokens_per_layer")
                               .table("embed_tokens_per_layer", config_.vocab_size_per_layer_input, width, layers);
    per_layer_model_projection_ = in_unit("head").linear("per_layer_model_projection", layers * width, hidden);
    per_layer_projection_norm_ = in_unit("head").vector("per_layer_projection_norm", width);
  }
  for (int i = 0; i < layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.emplace_back(in_unit(name).below(name + "."), config_, i, Attention::UnusedKeyValue::declared);
  }
  final_norm_ = in_unit("head").vector("norm", hidden);
  if (parts.vision) vision_ = ImageEncoder::of(config, Tensors(records_, ""), freeze);
  if (parts.audio) audio_ = AudioEncoder::of(config, Tensors(records_, ""), freeze);
  head_ = {final_norm_};
  if (per_layer_model_projection_ && per_layer_model_projection_->adapter)
    head_.push_back(per_layer_model_projection_->adapter->a);
}

void BaseModel::read_buffers(const hf::TensorFiles& files) {
  for (DecoderLayer& layer : layers_) layer.read_buffers(files);
  if (vision_) vision_->read_buffers(files);
  if (audio_) audio_->read_buffers(files);
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

Value BaseModel::per_layer_inputs(Graph& g, const Value& inputs_TH, const Tokens& tokens) const {
  const std::int64_t count = inputs_TH.data.size(0), width = config_.hidden_size_per_layer_input;
  const std::int64_t layers = config_.num_hidden_layers;
  const auto projection_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.hidden_size)));

  Value context = g.scale(g.linear(inputs_TH, *per_layer_model_projection_), projection_scale);
  context = g.rms_norm(g.view(context, {count * layers, width}), *per_layer_projection_norm_, config_.rms_norm_eps);
  const Graph::Scope table = g.scope(per_layer_embedding_->group(), Graph::Use::rows);
  const Value identity = g.lookup(*per_layer_embedding_, tokens, sqrt_of(width)).rows;
  return g.add_scaled(g.view(context, {count, layers * width}), identity, static_cast<float>(std::sqrt(0.5)));
}

BaseOutput BaseModel::forward(Graph& g, const Tokens& tokens) const {
  const Graph::Lookup embeddings = lookup(g, tokens);
  return run(g, embeddings, embeddings.rows, tokens, {});
}

BaseOutput BaseModel::forward(Tape& g, const ops::Sequences& sequences, std::span<const std::int64_t> ids,
                              std::span<const SoftTokens> media) const {
  Device& device = g.device();
  const std::vector<std::int64_t> rows = looked_up(ids);
  const Tokens tokens = Tokens::known(device, rows, config_.pad_token_id);
  if (media.empty()) return forward(g, tokens);
  // The drafter is given media tokens as they are: what it reads of the media is in the base's state.
  std::vector<std::int64_t> drafter_rows = rows;
  for (std::size_t t = 0; t < ids.size(); ++t)
    if (ids[t] == image_token_id_ || ids[t] == audio_token_id_) drafter_rows[t] = ids[t];
  const Graph::Lookup embeddings = lookup(g, Tokens::known(device, drafter_rows, config_.pad_token_id));
  Value inputs_TH = embeddings.rows;
  for (const SoftTokens& tokens_of : media) inputs_TH = g.put_rows(inputs_TH, tokens_of.features_RH, tokens_of.rows);
  Tensor blocks;
  if (config_.bidirectional_images && std::ranges::count(ids, image_token_id_) > 0)
    blocks = device.from_host(ops::blocks_of(sequences, ids, std::vector{image_token_id_, video_token_id_}));
  return run(g, embeddings, inputs_TH, tokens, blocks);
}

BaseOutput BaseModel::run(Graph& g, const Graph::Lookup& embeddings, const Value& inputs_TH, const Tokens& tokens,
                          const Tensor& blocks) const {
  BaseOutput out{.embeddings_TH = embeddings.rows, .fill_row_1H = embeddings.fill_row, .hidden_TH = {}, .stores = {}};
  const std::vector<Graph::Scope> head = open_units(g, head_);
  std::optional<Value> per_layer;
  if (per_layer_embedding_) per_layer = per_layer_inputs(g, inputs_TH, tokens);

  Value x_TH = inputs_TH;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const DecoderLayer& layer = layers_[i];
    std::optional<KeyValue>& store = out.stores.of(layer.shape());
    DecoderLayer::Inputs in{.types = types_, .blocks = blocks};
    if (layer.shape().shares_kv) in.shared = store;
    if (per_layer) {
      const std::int64_t width = config_.hidden_size_per_layer_input;
      in.per_layer_input_TP = g.columns(*per_layer, static_cast<std::int64_t>(i) * width, width);
    }
    const std::vector<Graph::Scope> weights = open_units(g, layer.parameters());
    const DecoderLayer::Outputs result = layer.forward(g, x_TH, in);
    if (result.stored) store = result.stored;
    if (!result.pair_offsets.empty()) out.pair_offsets.push_back(result.pair_offsets);
    x_TH = result.x_TH;
  }
  out.hidden_TH = g.rms_norm(x_TH, final_norm_, config_.rms_norm_eps);
  return out;
}

}  // namespace mtp::model
