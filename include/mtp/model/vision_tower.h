#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/model/clippable_linear.h"
#include "mtp/model/image_encoder.h"
#include "mtp/model/projector.h"

namespace mtp::model {

// Letters in names: P rows of patches of packed images · R rows of soft tokens · V width of the tower.

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

/// The tower, which gives features of squares of patches, and the projector, which makes soft tokens of them.
/// Source: Gemma4VisionModel, Hugging Face modeling_gemma4.py.
class VisionTower : public ImageEncoder {
 public:
  /// Declares its tensors in `all`, which have the whole names of the file. `hidden`: width of the text model.
  VisionTower(const Tensors& all, const hf::VisionConfig& config, std::int64_t hidden, const Settings::Freeze& freeze);

  void read_buffers(const hf::TensorFiles& files) override;
  bool trained() const override { return projector_.trained() || patch_projection_.trained(); }
  Value forward(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const override;
  ops::PatchGrids::Size blank_size() const override {
    return {config_.pooling_kernel_size, config_.pooling_kernel_size};
  }
  std::int64_t patch_bytes() const override { return config_.patch_values(); }

 private:
  Value embed_patches(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const;
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
  Projector projector_;
};

}  // namespace mtp::model
