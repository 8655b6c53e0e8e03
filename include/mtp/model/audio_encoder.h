#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "mtp/core/settings.h"
#include "mtp/graph/tape.h"
#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"
#include "mtp/model/soft_tokens.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

// Letters in names: F rows of frames of packed clips · R rows of soft tokens · H width of the text model.

/// A micro-batch's clips of sound on the host.
struct ClipInput {
  std::span<const std::int64_t> lengths;  // frames of each clip
  std::span<const float> frames;          // [F, frame size] clip after clip
  std::span<const std::int64_t> rows;     // [R] the row of the packed sequences whose input each soft token is
};

/// What a base hears with: it makes soft tokens of clips. Its graph's sequences are the clips, in soft tokens.
class AudioEncoder {
 public:
  /// That of a base, whose tensors it declares in `all`, which have the whole names of the file; null where the base
  /// takes no sound.
  static std::unique_ptr<AudioEncoder> of(const hf::BaseConfig& config, const Tensors& all,
                                          const Settings::Freeze& freeze);
  virtual ~AudioEncoder() = default;

  /// Throws Error where one is missing or has another shape.
  virtual void read_buffers(const hf::TensorFiles& files) = 0;

  /// Whether anything of it is trained: else nothing is kept for a backward.
  virtual bool trained() const = 0;

  /// The soft tokens of a clip of so many frames.
  virtual std::int64_t soft_tokens(std::int64_t frames) const = 0;

  /// The soft tokens of all clips, clip after clip.   [R, H]
  /// `lengths`, `frames`: as ClipInput has them.
  virtual Value forward(Tape& g, std::span<const std::int64_t> lengths, std::span<const float> frames) const = 0;

  virtual std::int64_t frame_size() const = 0;
};

/// One run of an encoder, on a tape of its own: on a micro-batch's clips; or on a frame of silence, whose soft token
/// nobody uses, so that its gradient is exactly zero.
class AudioPass {
 public:
  AudioPass(Device& device, const AudioEncoder& encoder, const std::optional<ClipInput>& clips, Tape::Options options);

  /// None of silence.
  const std::optional<SoftTokens>& soft_tokens() const { return soft_tokens_; }
  /// After the backward of what used the soft tokens.
  void backward() { tape_.backward(); }

 private:
  ops::Sequences sequences_;
  Tape tape_;
  std::optional<SoftTokens> soft_tokens_;
};

}  // namespace mtp::model
