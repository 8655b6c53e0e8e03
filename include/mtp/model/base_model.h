#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "mtp/model/decoder_layer.h"

namespace mtp::model {

/// What the drafter uses of one base forward.
struct BaseOutput {
  Value embeddings_TH;                    // scaled token embeddings of the inputs
  Tensor pad_row_1H;                      // the scaled embedding of the pad token; not with a cache
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

  BaseOutput forward(Graph& g, const ops::Sequences& sequences, std::span<const std::int64_t> ids) const;

  // For decoding, with ids [T] int64 on the device, of `looked_up` tokens:
  /// Scaled token embeddings.
  Value embed(Graph& g, const Tensor& ids) const;
  /// Rows that begin or continue the text of the cache.
  BaseOutput forward(Graph& g, const ops::Sequences& sequences, const Tensor& ids, KeyValueCache& cache) const;
  /// The ids whose rows the base reads: pad in place of image, video and audio tokens.
  std::vector<std::int64_t> looked_up(std::span<const std::int64_t> ids) const;

 private:
  /// Rows of a table for the tokens of a forward, times a factor.
  using Lookup = std::function<Value(const Parameter& table, float factor)>;

  float embedding_scale() const;
  BaseOutput run(Graph& g, const ops::Sequences& sequences, const Value& embeddings_TH, const Lookup& lookup,
                 KeyValueCache* cache) const;
  Value per_layer_inputs(Graph& g, const Value& embeddings_TH, const Lookup& lookup) const;

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
