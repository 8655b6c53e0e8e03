#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/model/audio_encoder.h"
#include "mtp/model/clippable_linear.h"
#include "mtp/model/projector.h"

namespace mtp::model {

// Letters in names: T rows of the packed clips' time steps, which become soft tokens · A width of the tower · D
// distances between two steps.

/// One of the two feed-forwards of a layer, with its residual.
/// Source: Gemma4AudioFeedForward, Hugging Face modeling_gemma4.py.
class AudioFeedForward {
 public:
  AudioFeedForward(const Tensors& tensors, const hf::AudioConfig& config);

  void read_buffers(const hf::TensorFiles& files);
  Value forward(Tape& g, const Value& x_TA) const;

 private:
  ops::Bounds bounds_;
  float weight_;
  Parameter pre_norm_;
  ClippableLinear in_, out_;
  Parameter post_norm_;
};

/// Attention to a clip's last steps, by content and distance.
/// Source: Gemma4AudioAttention, Hugging Face modeling_gemma4.py.
class AudioAttention {
 public:
  AudioAttention(const Tensors& tensors, const hf::AudioConfig& config);

  void read_buffers(const hf::TensorFiles& files);
  /// `distances`: what stands for each, [D, A].
  Value forward(Tape& g, const Value& x_TA, const Tensor& distances_DA) const;

 private:
  std::int64_t heads_, head_dim_;
  ops::LocalAttention attention_;
  ClippableLinear q_proj_, k_proj_, v_proj_, post_;
  Parameter relative_k_proj_, per_dim_scale_;
};

/// A gated convolution over a clip's last steps, with its residual.
/// Source: Gemma4AudioLightConv1d, Hugging Face modeling_gemma4.py.
class LightConvolution {
 public:
  LightConvolution(const Tensors& tensors, const hf::AudioConfig& config);

  void read_buffers(const hf::TensorFiles& files);
  Value forward(Tape& g, const Value& x_TA) const;

 private:
  ops::Bounds bounds_;
  float eps_;
  Parameter pre_norm_;
  ClippableLinear start_, end_;
  Parameter convolution_, norm_;
};

/// A layer of the tower: attention and convolution between two feed-forwards.
/// Source: Gemma4AudioLayer, Hugging Face modeling_gemma4.py.
class ConformerLayer {
 public:
  /// `tensors`: those of the layer alone, in its unit.
  ConformerLayer(const Tensors& tensors, const hf::AudioConfig& config);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  void read_buffers(const hf::TensorFiles& files);
  /// Runs as one segment of the graph.
  Value forward(Tape& graph, const Value& x_TA, const Tensor& distances_DA) const;

 private:
  std::string name_;
  ops::Bounds bounds_;
  AudioFeedForward first_, last_;
  Parameter pre_attention_norm_, post_attention_norm_, out_norm_;
  AudioAttention attention_;
  LightConvolution convolution_;
  std::vector<Parameter> parameters_;
};

/// The tower, which makes a step of four log-mel frames, and the projector, which makes soft tokens of the steps.
/// Source: Gemma4AudioModel, Hugging Face modeling_gemma4.py.
class AudioTower : public AudioEncoder {
 public:
  /// As AudioEncoder::of. `hidden`: width of the text model.
  AudioTower(const Tensors& all, const hf::AudioConfig& config, std::int64_t hidden, const Settings::Freeze& freeze);

  void read_buffers(const hf::TensorFiles& files) override;
  bool trained() const override { return projector_.trained() || output_proj_.trained(); }
  std::int64_t soft_tokens(std::int64_t frames) const override;
  Value forward(Tape& g, std::span<const std::int64_t> lengths, std::span<const float> frames) const override;
  std::int64_t frame_size() const override { return config_.frame_size(); }

 private:
  Value subsample(Tape& g, std::span<const std::int64_t> lengths, std::span<const float> frames) const;
  std::vector<float> distances() const;

  hf::AudioConfig config_;
  struct Subsampling {
    Parameter convolution, norm;
  };
  std::vector<Subsampling> subsampling_;
  Parameter input_proj_;
  std::vector<ConformerLayer> layers_;
  Parameter output_proj_, output_bias_;
  Projector projector_;
};

}  // namespace mtp::model
