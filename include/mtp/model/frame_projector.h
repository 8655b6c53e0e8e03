#pragma once

#include "mtp/model/audio_encoder.h"
#include "mtp/model/projector.h"

namespace mtp::model {

/// What a unified base hears with: every frame of raw samples becomes a soft token, by itself.
/// Source: embed_audio of Gemma4UnifiedModel, Hugging Face modeling_gemma4_unified.py.
class FrameProjector : public AudioEncoder {
 public:
  /// As AudioEncoder::of. `hidden`: width of the text model.
  FrameProjector(const Tensors& all, const hf::FrameProjectorConfig& config, std::int64_t hidden,
                 const Settings::Freeze& freeze)
      : size_(config.frame_size),
        projector_(
            all.in_unit("base.audio.projector", !freeze.base && !freeze.audio_projector).below("model.embed_audio."),
            hidden, config.frame_size, config.rms_norm_eps) {}

  void read_buffers(const hf::TensorFiles&) override {}
  bool trained() const override { return projector_.trained(); }
  std::int64_t soft_tokens(std::int64_t frames) const override { return frames; }
  Value forward(Tape& g, std::span<const std::int64_t>, std::span<const float> frames) const override {
    const Tensor rows = g.device().from_host(frames, {std::ssize(frames) / size_, size_});
    return projector_.forward(g, Graph::constant(rows));
  }
  std::int64_t frame_size() const override { return size_; }

 private:
  std::int64_t size_;
  Projector projector_;
};

}  // namespace mtp::model
