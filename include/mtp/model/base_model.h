#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/model/audio_encoder.h"
#include "mtp/model/decoder_layer.h"
#include "mtp/model/image_encoder.h"

namespace mtp::model {

/// Keys and values of the two store layers.
struct Stores {
  std::optional<KeyValue> full, sliding;

  std::optional<KeyValue>& of(const hf::LayerShape& layer) { return layer.is_sliding ? sliding : full; }
  const std::optional<KeyValue>& of(const hf::LayerShape& layer) const { return layer.is_sliding ? sliding : full; }
};

/// What the drafter uses of one base forward.
struct BaseOutput {
  Value embeddings_TH;  // scaled token embeddings of the inputs
  Tensor fill_row_1H;   // the scaled embedding of what comes after a text's end; of a tape
  Value hidden_TH;      // after the final norm
  Stores stores;
  std::vector<Tensor> pair_offsets = {};  // of each layer with experts: see Experts::Output
};

/// Which parts beside the text decoder, of those that its configuration has, a base has in memory. Others are carried.
struct Parts {
  bool vision = false, audio = false;
};

/// The Gemma 4 text decoder without its output projection, and what gives it soft tokens.
/// Source: Gemma4TextModel and Gemma4Model, Hugging Face modeling_gemma4.py.
class BaseModel {
 public:
  /// Declares its tensors; those of the text decoder are in the file under `config.prefix`. With adapters, which its
  /// linear layers may have, its own parameters are frozen.
  BaseModel(const hf::BaseConfig& config, const Settings::Freeze& freeze, Parts parts, const Settings::Lora& lora = {});

  const std::vector<TensorRecord>& tensors() const { return records_; }
  /// What it needs of the files beside its parameters. Throws Error.
  void read_buffers(const hf::TensorFiles& files);

  /// The token table, tied to the output projection. Its group's scope must be open.
  const Parameter& embedding() const { return embedding_; }
  /// The table of per-layer inputs, of which a forward reads single rows; none where the model has none.
  const std::optional<Parameter>& per_layer_embedding() const { return per_layer_embedding_; }
  float soft_cap() const { return config_.final_logit_softcapping.value_or(0); }

  /// Null: the part is not in memory.
  const ImageEncoder* vision() const { return vision_.get(); }
  const AudioEncoder* audio() const { return audio_.get(); }

  /// The ids whose rows the base reads: pad in place of image, video and audio tokens.
  std::vector<std::int64_t> looked_up(std::span<const std::int64_t> ids) const;

  /// `tokens`: of `looked_up` ids.
  BaseOutput forward(Graph& g, const Tokens& tokens) const;
  /// Of texts on the host, with pad after each one's end. `media`: of their images and of their clips, if any.   ids
  /// [T]
  BaseOutput forward(Tape& g, const ops::Sequences& sequences, std::span<const std::int64_t> ids,
                     std::span<const SoftTokens> media) const;
  /// Scaled token embeddings alone.
  Value embed(Graph& g, const Tokens& tokens) const { return lookup(g, tokens).rows; }

 private:
  Graph::Lookup lookup(Graph& g, const Tokens& tokens) const;
  Value per_layer_inputs(Graph& g, const Value& inputs_TH, const Tokens& tokens) const;
  /// What follows the lookup. `inputs_TH`: of the first layer; `blocks`: see ops::AttentionMask, empty for none.
  BaseOutput run(Graph& g, const Graph::Lookup& embeddings, const Value& inputs_TH, const Tokens& tokens,
                 const Tensor& blocks) const;

  hf::TextConfig config_;
  std::vector<std::int64_t> special_ids_;
  std::int64_t image_token_id_, video_token_id_, audio_token_id_;
  AttentionTypes types_;
  std::vector<TensorRecord> records_;
  std::vector<DecoderLayer> layers_;
  Parameter embedding_, final_norm_;
  std::unique_ptr<ImageEncoder> vision_;
  std::unique_ptr<AudioEncoder> audio_;
  std::optional<Parameter> per_layer_embedding_, per_layer_projection_norm_;
  std::optional<Linear> per_layer_model_projection_;
  std::vector<Parameter> head_;  // of each unit of what is used outside the layers, one
};

}  // namespace mtp::model
