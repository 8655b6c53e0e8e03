#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mtp/graph/graph.h"
#include "mtp/hf/config.h"
#include "mtp/model/attention.h"
#include "mtp/model/experts.h"
#include "mtp/model/feed_forward.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

/// What a decoder layer may take of each token beside its state: an embedding of the layer's own, gated by the state.
/// Source: Gemma4TextDecoderLayer, Hugging Face modeling_gemma4.py.
class PerLayerInput {
 public:
  PerLayerInput(const Tensors& tensors, std::int64_t hidden, std::int64_t width)
      : gate_(tensors.linear("per_layer_input_gate", width, hidden)),
        projection_(tensors.linear("per_layer_projection", hidden, width)),
        post_norm_(tensors.vector("post_per_layer_input_norm", hidden)) {}

  /// x + norm(projection(gelu(gate x) · input))
  Value add_to(Graph& g, const Value& x_TH, const Value& input_TP, float eps) const {
    return g.add_rms_norm(x_TH, g.linear(g.gate(x_TH, gate_, input_TP), projection_), post_norm_, eps);
  }

 private:
  Linear gate_, projection_;
  Parameter post_norm_;
};

/// A Gemma 4 decoder layer, of the base or of the drafter.
/// Source: Gemma4TextDecoderLayer, Hugging Face modeling_gemma4.py.
class DecoderLayer {
 public:
  /// `tensors`: those of the layer alone, in its unit.
  DecoderLayer(const Tensors& tensors, const hf::TextConfig& config, int index, Attention::UnusedKeyValue unused);

  const hf::LayerShape& shape() const { return shape_; }
  /// Its parameters, of whatever units.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// Throws Error where the buffer is missing or has another shape.
  void read_buffers(const hf::TensorFiles& files);

  struct Inputs {
    const AttentionTypes& types;
    std::optional<KeyValue> shared = {};  // keys and values of a store layer, instead of own ones
    std::optional<Value> per_layer_input_TP = {};
    Tensor blocks = {};  // of images that see themselves whole on sliding layers: see ops::AttentionMask
  };
  struct Outputs {
    Value x_TH;
    std::optional<KeyValue> stored;  // what the rows attend to, of a store layer
    Tensor pair_offsets = {};        // see Experts::Output; empty without experts
  };
  /// Runs as one segment of the graph.
  Outputs forward(Graph& graph, const Value& x_TH, const Inputs& inputs) const;

 private:
  std::string name_;
  hf::LayerShape shape_;
  float eps_, layer_scalar_ = 1;
  Parameter input_norm_;
  Attention attention_;
  Parameter post_attention_norm_, pre_feedforward_norm_;
  FeedForward feed_forward_;
  std::optional<Experts> experts_;
  Parameter post_feedforward_norm_;
  std::optional<PerLayerInput> per_layer_input_;
  Buffer layer_scalar_buffer_;
  std::vector<Parameter> parameters_;
};

}  // namespace mtp::model
