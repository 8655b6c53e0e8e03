#pragma once

#include <optional>

#include "mtp/graph/graph.h"
#include "mtp/hf/config.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

// Letters in names: T rows of packed sequences · H hidden size · P width of a per-layer input.

/// What the layers of one attention type have in common.
struct AttentionType {
  ops::AttentionMask mask;
  ops::Rope rope;
};

/// Both attention types of a model.
struct AttentionTypes {
  AttentionType full, sliding;

  const AttentionType& of(const hf::LayerShape& layer) const { return layer.is_sliding ? sliding : full; }
};

/// Masks and rotary embeddings of a model whose queries stand `offset` positions after their row's token.
AttentionTypes causal_attention(const hf::TextConfig& config, std::int64_t offset);

/// A layer's attention: grouped queries with norms of their own, over keys and values that are the layer's or another
/// one's. Source: Gemma4TextAttention, Hugging Face modeling_gemma4.py.
class Attention {
 public:
  /// Whether to declare the projections that released bases hold for layers that share keys and values: nothing reads
  /// them.
  enum class UnusedKeyValue { none, declared };

  Attention(const Tensors& tensors, const hf::TextConfig& config, int layer, UnusedKeyValue unused);

  /// What the rows attend to, and the result.
  struct Output {
    KeyValue key_value;
    Value x_TH;
  };
  /// Of norm(x). `blocks`: of rows that see each other on sliding layers, or empty; they must live until the backward
  /// is done. `shared`: keys and values that take the place of own ones.
  Output forward(Graph& g, const Value& x_TH, const Parameter& norm, const AttentionType& type, const Tensor& blocks,
                 const std::optional<KeyValue>& shared) const;

 private:
  int layer_;
  hf::LayerShape shape_;
  std::int64_t heads_;
  Linear q_proj_;
  Graph::HeadNorms norms_;
  std::optional<Linear> k_proj_, v_proj_;  // none: the layer shares; no v_proj: the keys' projection
  Linear o_proj_;
};

}  // namespace mtp::model
