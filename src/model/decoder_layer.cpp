#include "mtp/model/decoder_layer.h"

#include "mtp/tensor/bfloat16.h"

namespace mtp::model {

DecoderLayer::DecoderLayer(const hf::TextConfig& config, int index, const std::string& prefix, float layer_scalar,
                           const Parameters& parameters, const AttentionTypes& types)
    : shape_(config.layer(index)),
      index_(index),
      heads_(config.num_attention_heads),
      eps_(config.rms_norm_eps),
      layer_scalar_(layer_scalar),
      type_(shape_.is_sliding ? types.sliding : types.full) {
  const auto weight = [&](const char* name) { return parameters.get(prefix + name + ".weight"); };
  input_norm_ = weight("input_layernorm");
  post_attention_norm_ = weight("post_attention_layernorm");
  pre_feedforward_norm_ = weight("pre_feedforward_layernorm");
  post_feedforward_norm_ = weight("post_feedforward_layernorm");
  q_proj_ = weight("self_attn.q_proj");
  q_norm_ = weight("self_attn.q_norm");
  o_proj_ = weight("self_attn.o_proj");
  if (!shape_.shares_kv) {
    k_proj_ = weight("self_attn.k_proj");
    k_norm_ = weight("self_attn.k_norm");
    if (!shape_.k_eq_v) v_proj_ = weight("self_attn.v_proj");
  }
  gate_proj_ = weight("mlp.gate_proj");
  up_proj_ = weight("mlp.up_proj");
  down_proj_ = weight("mlp.down_proj");
  if (config.hidden_size_per_layer_input > 0) {
    per_layer_gate_ = weight("per_layer_input_gate");
    per_layer_projection_ = weight("per_layer_projection");
    post_per_layer_norm_ = weight("post_per_layer_input_norm");
  }
}

DecoderLayer::Attended DecoderLayer::attention(Graph& g, const Value& x_TH, const ops::Sequences& sequences,
                                               const std::optional<KeyValue>& shared, KeyValueCache* cache) const {
  const std::int64_t rows = x_TH.data.size(0);
  const Shape kv_heads{rows, shape_.kv_heads, shape_.head_dim};
  std::vector<Parameter> weights;
  if (k_proj_) weights.push_back(*k_proj_);
  if (v_proj_) weights.push_back(*v_proj_);
  weights.push_back(q_proj_);
  const std::vector<Value> projected = g.norm_linear(x_TH, input_norm_, eps_, weights);

  std::vector<Graph::Heads> heads;
  if (k_proj_) {
    const Value k = g.view(projected[0], kv_heads), v = v_proj_ ? g.view(projected[1], kv_heads) : k;
    heads = {{k, &*k_norm_, true}, {v, nullptr, false}};
    if (sequences.continues() && cache != nullptr) {
      heads[0].ring = cache->ring(index_).key.data;
      heads[1].ring = cache->ring(index_).value.data;
    }
  }
  heads.push_back({g.view(projected.back(), {rows, heads_, shape_.head_dim}), &q_norm_, true});
  const std::vector<Value> ready = g.heads(heads, eps_, type_.rope, sequences);
  const KeyValue kv = shared ? *shared : KeyValue{ready[0], ready[1]};
  if (cache != nullptr && !shared && !sequences.continues()) cache->keep(index_, kv);

  const Value mixed = g.attention(ready.back(), kv.key, kv.value, type_.mask, sequences);
  return {kv, g.linear(g.view(mixed, {rows, heads_ * shape_.head_dim}), o_proj_)};
}

Value DecoderLayer::mlp(Graph& g, const Value& x_TH) const {
  return g.linear(g.norm_gated_linear(x_TH, pre_feedforward_norm_, eps_, gate_proj_, up_proj_), down_proj_);
}

Value DecoderLayer::per_layer(Graph& g, const Value& x_TH, const Value& per_layer_input_TP) const {
  return g.linear(g.gate(x_TH, *per_layer_gate_, per_layer_input_TP), *per_layer_projection_);
}

DecoderLayer::Outputs DecoderLayer::forward(Graph& graph, const Value& x_TH, const Inputs& in, bool store) const {
  std::vector<Value> inputs{x_TH};
  if (in.shared) inputs.insert(inputs.end(), {in.shared->key, in.shared->value});
  if (in.per_layer_input_TP) inputs.push_back(*in.per_layer_input_TP);

  const bool shares = in.shared.has_value(), has_per_layer_input = in.per_layer_input_TP.has_value();
  const ops::Sequences& sequences = in.sequences;
  const auto run = [this, shares, has_per_layer_input, store, &sequences, cache = in.cache](
                       Graph& g, std::span<const Value> values) {
    Value x = values[0];
    const auto given = shares ? std::optional(KeyValue{values[1], values[2]}) : std::nullopt;
    const auto [kv, attended] = attention(g, x, sequences, given, cache);
    x = g.add_rms_norm(x, attended, post_attention_norm_, eps_);
    x = g.add_rms_norm(x, mlp(g, x), post_feedforward_norm_, eps_);
    if (has_per_layer_input) x = g.add_rms_norm(x, per_layer(g, x, values.back()), *post_per_layer_norm_, eps_);
    x = g.scale(x, rounded_to(x.data.dtype(), layer_scalar_));
    return store ? std::vector<Value>{x, kv.key, kv.value} : std::vector<Value>{x};
  };
  const std::vector<Value> outputs = graph.segment(std::move(inputs), run, q_proj_.group->name());
  return {outputs[0], store ? std::optional(KeyValue{outputs[1], outputs[2]}) : std::nullopt};
}

}  // namespace mtp::model
