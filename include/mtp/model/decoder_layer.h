#pragma once

#include <optional>
#include <string>

#include "mtp/graph/graph.h"
#include "mtp/hf/config.h"
#include "mtp/model/parameters.h"

namespace mtp::model {

// Letters in names: T rows of packed sequences · H hidden size · P width of a per-layer input.

/// Keys and values of a layer, [T, kv_heads, d] each.
struct KeyValue {
  Value key, value;
};

/// Keys and values of the rows so far, in rings: those of a layer that has its own.
class KeyValueCache {
 public:
  virtual ~KeyValueCache() = default;
  /// Keeps those of a sequence's first rows.
  virtual void keep(int layer, const KeyValue& rows) = 0;
  /// What later rows, in a `rowwise` graph, attend to and put theirs in.
  virtual KeyValue ring(int layer) const = 0;
};

/// What the layers of one attention type have in common.
struct AttentionType {
  ops::AttentionMask mask;
  ops::Rope rope;
};

/// Both attention types of a model.
struct AttentionTypes {
  AttentionType full, sliding;
};

/// A Gemma 4 decoder layer, of the base or of the drafter.
/// Source: Gemma4TextDecoderLayer, Hugging Face modeling_gemma4.py.
class DecoderLayer {
 public:
  /// `prefix` is the layer's part of the tensors' names, such as "drafter.model.layers.0.".
  DecoderLayer(const hf::TextConfig& config, int index, const std::string& prefix, float layer_scalar,
               const Parameters& parameters, const AttentionTypes& types);

  bool is_sliding() const { return shape_.is_sliding; }
  /// The unit that holds the layer's parameters.
  ParameterGroup& group() const { return *input_norm_.group; }

  struct Inputs {
    const ops::Sequences& sequences;
    std::optional<KeyValue> shared;  // keys and values of a store layer, instead of own ones
    std::optional<Value> per_layer_input_TP;
    KeyValueCache* cache = nullptr;  // without one, rows attend to each other only
  };
  struct Outputs {
    Value x_TH;
    std::optional<KeyValue> stored;  // where `store` was asked for
  };

  /// Runs as one segment of the graph. `store`: also give out the keys and values that the layer's rows attend to.
  Outputs forward(Graph& graph, const Value& x_TH, const Inputs& inputs, bool store = false) const;

 private:
  /// What the layer's rows attend to, and the attention's output.
  struct Attended {
    KeyValue kv;
    Value output_TH;
  };
  Attended attention(Graph& g, const Value& x_TH, const ops::Sequences& sequences,
                     const std::optional<KeyValue>& shared, KeyValueCache* cache) const;
  Value mlp(Graph& g, const Value& x_TH) const;
  Value per_layer(Graph& g, const Value& x_TH, const Value& per_layer_input_TP) const;

  hf::LayerShape shape_;
  int index_;
  std::int64_t heads_;
  float eps_;
  float layer_scalar_;
  const AttentionType& type_;

  Parameter input_norm_, post_attention_norm_, pre_feedforward_norm_, post_feedforward_norm_;
  Parameter q_proj_, q_norm_, o_proj_;
  std::optional<Parameter> k_proj_, k_norm_, v_proj_;  // none: the layer shares; no v_proj: the keys' projection
  Parameter gate_proj_, up_proj_, down_proj_;
  std::optional<Parameter> per_layer_gate_, per_layer_projection_, post_per_layer_norm_;
};

}  // namespace mtp::model
