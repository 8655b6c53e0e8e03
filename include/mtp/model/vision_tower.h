#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/graph/tape.h"
#include "mtp/hf/config.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

// Letters in names: P rows of patches of packed images · R rows of soft tokens · V width of the tower · H of the text.

/// A micro-batch's images on the host.
struct ImageInput {
  const ops::PatchGrids& grids;
  std::span<const std::uint8_t> patches;  // [grids.rows(), 3 · side²] bytes of pixels
  std::span<const std::int64_t> rows;     // [R] the row of the packed sequences whose input each soft token is
};

/// A linear layer whose input and output are kept within bounds, which are buffers of its file.
/// Source: Gemma4ClippableLinear, Hugging Face modeling_gemma4.py.
class ClippableLinear {
 public:
  ClippableLinear(const Tensors& tensors, std::int64_t out, std::int64_t in, bool clipped);

  /// Throws Error where a bound is missing.
  void read_buffers(const hf::TensorFiles& files);
  Value forward(Tape& g, const Value& x) const;

 private:
  Parameter weight_;
  struct Clips {
    Buffer input_min, input_max, output_min, output_max;
  };
  std::optional<Clips> clips_;
  ops::Bounds input_{}, output_{};
};

/// A layer of the vision tower, in which every patch sees all of its image.
/// Source: Gemma4VisionEncoderLayer, Hugging Face modeling_gemma4.py.
class VisionLayer {
 public:
  /// `tensors`: those of the layer alone, in its unit.
  VisionLayer(const Tensors& tensors, const hf::VisionConfig& config);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  void read_buffers(const hf::TensorFiles& files);
  /// Runs as one segment of the graph. `positions`: x and y of the patches, [2, P] int64.
  Value forward(Tape& graph, const Value& x_PV, const ops::Rope& rope, const Tensor& positions) const;

 private:
  Value attention(Tape& g, const Value& x_PV, const ops::Rope& rope, const Tensor& positions) const;
  Value feed_forward(Tape& g, const Value& x_PV) const;

  std::string name_;
  std::int64_t heads_, kv_heads_, head_dim_;
  float eps_;
  Parameter input_norm_;
  ClippableLinear q_proj_, k_proj_, v_proj_, o_proj_;
  Parameter q_norm_, k_norm_;
  Parameter post_attention_norm_, pre_feedforward_norm_;
  ClippableLinear gate_proj_, up_proj_, down_proj_;
  Parameter post_feedforward_norm_;
  std::vector<Parameter> parameters_;
};

/// Soft tokens, and the rows of the packed sequences whose input each of them is.
struct SoftTokens {
  Value features_RH;
  Tensor rows;  // [R] int64
};

/// What a base sees images with: the tower, which gives features of squares of patches, and the projector, which makes
/// soft tokens of them. Its graph's sequences are the images: `ImageInput::grids.sequences()`.
/// Source: Gemma4VisionModel and Gemma4MultimodalEmbedder, Hugging Face modeling_gemma4.py.
class VisionTower {
 public:
  /// Declares its tensors in `all`, which have the whole names of the file. `hidden`: width of the text model.
  VisionTower(const Tensors& all, const hf::VisionConfig& config, std::int64_t hidden, const Settings::Freeze& freeze);

  /// Throws Error where one is missing or has another shape.
  void read_buffers(const hf::TensorFiles& files);

  /// Whether anything of it is trained: else nothing is kept for a backward.
  bool trained() const { return projection_.trained() || patch_projection_.trained(); }

  /// The soft tokens of all images, image after image.   [R, H]
  /// `grids` must live until the graph's backward is done.
  /// `bytes`: of their pixels, patch after patch.
  Value forward(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const;

  /// The smallest image.
  ops::PatchGrids::Size blank_size() const { return {config_.pooling_kernel_size, config_.pooling_kernel_size}; }
  std::int64_t patch_bytes() const { return config_.patch_values(); }

 private:
  Value embed_patches(Tape& g, std::span<const std::uint8_t> bytes, const Tensor& positions) const;
  Value pool(Tape& g, const Value& x_PV, const ops::PatchGrids& grids) const;

  hf::VisionConfig config_;
  ops::Rope rope_;
  Parameter patch_projection_, position_table_;
  std::vector<VisionLayer> layers_;
  struct Standard {
    Buffer bias, scale;
  };
  std::optional<Standard> standard_;
  std::vector<float> bias_V_, scale_V_;
  Parameter projection_;
};

/// One run of a tower, on a tape of its own: on a micro-batch's images; or on a blank one, whose soft tokens nobody
/// uses, so that its gradient is exactly zero. What is passed by reference must outlive it.
class VisionPass {
 public:
  VisionPass(Device& device, const VisionTower& tower, const std::optional<ImageInput>& images, Tape::Options options);

  /// None of a blank image.
  const std::optional<SoftTokens>& soft_tokens() const { return soft_tokens_; }
  /// After the backward of what used the soft tokens.
  void backward() { tape_.backward(); }

 private:
  ops::PatchGrids grids_;
  ops::Sequences sequences_;
  Tape tape_;
  std::optional<SoftTokens> soft_tokens_;
};

}  // namespace mtp::model
