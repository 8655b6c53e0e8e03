#include "mtp/model/attention.h"

namespace mtp::model {

AttentionTypes causal_attention(const hf::TextConfig& config, std::int64_t offset) {
  using Kind = ops::AttentionMask::Kind;
  return {.full = {.mask = {.kind = Kind::causal, .window = 0, .offset = offset},
                   .rope = {config.rope_inverse_frequencies(hf::LayerType::full), offset}},
          .sliding = {.mask = {.kind = Kind::causal, .window = config.sliding_window, .offset = offset},
                      .rope = {config.rope_inverse_frequencies(hf::LayerType::sliding), offset}}};
}

Attention::Attention(const Tensors& tensors, const hf::TextConfig& config, int layer, UnusedKeyValue unused)
    : layer_(layer), shape_(config.layer(layer)), heads_(config.num_attention_heads) {
  const std::int64_t hidden = config.hidden_size, queries = heads_ * shape_.head_dim,
                     keys = shape_.kv_heads * shape_.head_dim;
  q_proj_ = tensors.linear("q_proj", queries, hidden);
  norms_ = {.query = tensors.head_norm("q_norm", shape_.head_dim), .key = {}, .eps = config.rms_norm_eps};
  if (!shape_.shares_kv) {
    k_proj_ = tensors.linear("k_proj", keys, hidden);
    norms_.key = tensors.head_norm("k_norm", shape_.head_dim);
    if (!shape_.k_eq_v) v_proj_ = tensors.linear("v_proj", keys, hidden);
  } else if (unused == UnusedKeyValue::declared) {
    tensors.unused().matrix("k_proj", keys, hidden);
    tensors.unused().head_norm("k_norm", shape_.head_dim);
    if (!shape_.k_eq_v) tensors.unused().matrix("v_proj", keys, hidden);
  }
  o_proj_ = tensors.linear("o_proj", hidden, queries);
}

Attention::Output Attention::forward(Graph& g, const Value& x_TH, const Parameter& norm, const AttentionType& type,
                                     const Tensor& blocks, const std::optional<KeyValue>& shared) const {
  const std::int64_t rows = x_TH.data.size(0);
  std::vector<Linear> weights;
  if (k_proj_) weights.push_back(*k_proj_);
  if (v_proj_) weights.push_back(*v_proj_);
  weights.push_back(q_proj_);
  const std::vector<Value> products = g.norm_linear(x_TH, norm, norms_.eps, weights);

  Graph::Projections projected;
  if (k_proj_) {
    const Shape shape{rows, shape_.kv_heads, shape_.head_dim};
    const Value key = g.view(products[0], shape);
    projected.key_value = KeyValue{key, v_proj_ ? g.view(products[1], shape) : key};
  }
  projected.query = g.view(products.back(), {rows, heads_, shape_.head_dim});
  const Graph::Projections ready = g.heads(layer_, projected, norms_, type.rope);

  const KeyValue key_value = shared ? *shared : *ready.key_value;
  ops::AttentionMask mask = type.mask;
  if (shape_.is_sliding && !blocks.empty()) mask.blocks = blocks.data<std::int64_t>();
  const Value mixed = g.attention(ready.query, key_value, mask);
  return {key_value, g.linear(g.view(mixed, {rows, heads_ * shape_.head_dim}), o_proj_)};
}

}  // namespace mtp::model
