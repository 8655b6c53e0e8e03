#include "mtp/model/decoder_layer.h"

#include "mtp/tensor/bfloat16.h"

namespace mtp::model {

DecoderLayer::DecoderLayer(const Tensors& tensors, const hf::TextConfig& config, int index,
                           Attention::UnusedKeyValue unused)
    : name_(tensors.unit()),
      shape_(config.layer(index)),
      eps_(config.rms_norm_eps),
      input_norm_(tensors.vector("input_layernorm", config.hidden_size)),
      attention_(tensors.below("self_attn."), config, index, unused),
      post_attention_norm_(tensors.vector("post_attention_layernorm", config.hidden_size)),
      pre_feedforward_norm_(tensors.vector("pre_feedforward_layernorm", config.hidden_size)),
      feed_forward_(tensors.below("mlp."), config.hidden_size, shape_.intermediate_size),
      post_feedforward_norm_(tensors.vector("post_feedforward_layernorm", config.hidden_size)) {
  if (config.has_experts()) experts_.emplace(tensors, config);
  if (const std::int64_t width = config.hidden_size_per_layer_input; width > 0)
    per_layer_input_.emplace(tensors, config.hidden_size, width);
  layer_scalar_buffer_ = tensors.buffer("layer_scalar", {1}, {Start::Kind::constant, 1});
  parameters_ = tensors.declared();
}

void DecoderLayer::read_buffers(const hf::TensorFiles& files) {
  layer_scalar_ = layer_scalar_buffer_.read(files).front();
}

DecoderLayer::Outputs DecoderLayer::forward(Graph& graph, const Value& x_TH, const Inputs& in) const {
  std::vector<Value> inputs{x_TH};
  if (in.shared) inputs.insert(inputs.end(), {in.shared->key, in.shared->value});
  if (in.per_layer_input_TP) inputs.push_back(*in.per_layer_input_TP);

  const bool shares = in.shared.has_value();
  const auto run = [this, shares, &type = in.types.of(shape_), blocks = in.blocks](Graph& g,
                                                                                   std::span<const Value> values) {
    Value x = values[0];
    const auto shared = shares ? std::optional(KeyValue{values[1], values[2]}) : std::nullopt;
    const auto [key_value, attended] = attention_.forward(g, x, input_norm_, type, blocks, shared);
    x = g.add_rms_norm(x, attended, post_attention_norm_, eps_);
    Value fed = feed_forward_.forward(g, x, pre_feedforward_norm_, eps_);
    Tensor pair_offsets;
    if (experts_) {
      const Experts::Output mixed = experts_->add_to(g, fed, x, eps_);
      fed = mixed.x_TH;
      pair_offsets = mixed.pair_offsets;
    }
    x = g.add_rms_norm(x, fed, post_feedforward_norm_, eps_);
    if (per_layer_input_) x = per_layer_input_->add_to(g, x, values.back(), eps_);
    x = g.scale(x, rounded_to(x.data.dtype(), layer_scalar_));
    std::vector<Value> outputs{x, Graph::constant(pair_offsets)};
    if (shape_.is_store) outputs.insert(outputs.end(), {key_value.key, key_value.value});
    return outputs;
  };
  const std::vector<Value> outputs = graph.segment(std::move(inputs), run, name_);
  return {.x_TH = outputs[0],
          .stored = shape_.is_store ? std::optional(KeyValue{outputs[2], outputs[3]}) : std::nullopt,
          .pair_offsets = outputs[1].data};
}

}  // namespace mtp::model
