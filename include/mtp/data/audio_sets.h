#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "mtp/data/media_sets.h"

namespace mtp::data {

/// What a base takes of sound.
struct AudioInput {
  std::int64_t audio_token_id = 0;
  std::int64_t frames_per_token = 0;  // 1 in the unified family
  std::int64_t frame_size = 0;        // numbers of a frame
};

/// Clips of sound on the host, packed one after another, and where their soft tokens go.
struct Clips {
  std::vector<std::int64_t> lengths;  // frames of each
  std::vector<float> frames;          // [Σ lengths, frame size]
  std::vector<std::int64_t> rows;     // [soft tokens] the row whose input each of them is, clip after clip
};

/// The clips of sound of a file's lists:
///
///   attributes      audio_token_id, frames_per_audio_token
///   audio_features  [F, W] float32   frames of all clips, one after the other
///   audio_offsets   [A+1] int64      clip i has frames audio_offsets[i] … audio_offsets[i+1] - 1, at least one
///   sample_audios   [N+1] int64      list n has clips sample_audios[n] … sample_audios[n+1] - 1
///
/// Everything else as in ImageSets: a clip of F frames is ⌈F / frames_per_audio_token⌉ tokens. Frames are checked when
/// they are read.
class AudioSets final : public MediaSets {
 public:
  /// Nothing of a file without sound.
  static std::optional<AudioSets> of(const TokenLists& lists);

  std::int64_t frames() const { return elements(); }
  std::int64_t frames(std::int64_t clip) const { return elements(clip); }
  std::int64_t frame_size() const { return features_.shape()[1]; }
  std::int64_t frames_per_token() const { return frames_per_token_; }
  std::int64_t soft_tokens(std::int64_t clip) const override {
    return (frames(clip) + frames_per_token_ - 1) / frames_per_token_;
  }

  /// [frames(clip), frame_size]
  std::vector<float> read(std::int64_t clip) const;

  /// Appends the first `shown` clips of list i, whose `inputs` are rows `row`, row + 1, ….
  void append(std::int64_t i, std::int64_t shown, std::span<const std::int32_t> inputs, std::int64_t row,
              Clips& clips) const;

  /// Throws Error unless a base takes them.
  void check_base(const std::filesystem::path& directory, const std::optional<AudioInput>& base) const;

 private:
  explicit AudioSets(const TokenLists& lists);

  std::int64_t frames_per_token_;
  hdf5::Dataset features_;
};

}  // namespace mtp::data
