#pragma once

#include <optional>
#include <span>
#include <vector>

#include "mtp/model/decoder_layer.h"

namespace mtp::model {

/// What the drafter uses of one base forward.
struct BaseOutput {
  Value embeddings_TH;                    // scaled token embeddings of the inputs
  Tensor pad_row_1H;                      // the scaled embedding of the pad token
  Value hidden_TH;                        // after the final norm
  std::optional<KeyValue> full, sliding;  // of the two store layers
};

/// The Gemma 4 text decoder without its output projection.
/// Source: Gemma4TextModel, Hugging Face modeling_gemma4.py.
class BaseModel {
 public:
  /// `layer_scalars`: the buffer of each layer.
  BaseModel(const hf::BaseConfig& config, const std::vector<float>& layer_scalars, const Parameters& parameters);
  BaseModel(const BaseModel&) = delete;
  BaseModel& operator=(const BaseModel&) = delete;

  /// The token table, tied to the output projection. Its group's scope must be open.
  const Parameter& embedding() const { return embedding_; }

  /// Scaled token embeddings, and that of the pad token.
  Graph::Lookup embed(Graph& g, std::span<const std::int64_t> ids) const;

  /// Image, video and audio tokens are looked up as pad. `cache`: for decoding; the output's keys and values are then
  /// what it gives.
  BaseOutput forward(Graph& g, const ops::Sequences& sequences, std::span<const std::int64_t> ids,
                     KeyValueCache* cache = nullptr) const;

 private:
  Value per_layer_inputs(Graph& g, const Value& embeddings_TH, std::span<const std::int64_t> ids) const;

  std::vector<std::int64_t> looked_up(std::span<const std::int64_t> ids) const;

  hf::TextConfig config_;
  std::vector<std::int64_t> special_ids_;
  AttentionTypes types_;
  std::vector<DecoderLayer> layers_;
  Parameter embedding_, final_norm_;
  std::optional<Parameter> per_layer_embedding_, per_layer_model_projection_, per_layer_projection_norm_;
};

/// Masks and rotary embeddings of a model whose queries stand `offset` positions after their row's token.
AttentionTypes causal_attention(const hf::TextConfig& config, std::int64_t offset);

}  // namespace mtp::model
