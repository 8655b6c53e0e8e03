#pragma once

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/model/image_encoder.h"
#include "mtp/model/projector.h"

namespace mtp::model {

/// What a unified base sees images with: every patch becomes a soft token, by itself.
/// Source: Gemma4UnifiedVisionEmbedder, Hugging Face modeling_gemma4_unified.py.
class PatchEmbedder : public ImageEncoder {
 public:
  /// As VisionTower.
  PatchEmbedder(const Tensors& all, const hf::PatchEmbedderConfig& config, std::int64_t hidden,
                const Settings::Freeze& freeze);

  void read_buffers(const hf::TensorFiles&) override {}
  bool trained() const override { return projector_.trained() || dense_.trained(); }
  Value forward(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const override;
  ops::PatchGrids::Size blank_size() const override { return {1, 1}; }
  std::int64_t patch_bytes() const override { return config_.patch_values(); }

 private:
  struct Norm {
    Parameter weight, bias;
  };
  static Norm norm(const Tensors& tensors, const char* name, std::int64_t width);
  Value features(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const;

  hf::PatchEmbedderConfig config_;
  Norm pixel_norm_;
  Parameter dense_, dense_bias_;
  Norm dense_norm_;
  Parameter position_table_;
  Norm position_norm_;
  Projector projector_;
};

}  // namespace mtp::model
