#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/data/audio_sets.h"
#include "mtp/data/image_sets.h"
#include "mtp/data/token_lists.h"

namespace mtp::data {

/// One sample: n ≥ 2 tokens, and for each 1 where it is a target to learn, else 0; and how many of its images and clips
/// of sound the tokens show, without the last, which is only asked for.
struct Sample {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> is_target;
  std::int64_t images = 0, clips = 0;

  std::int64_t labels() const;
};

/// What a whole data file holds.
struct Summary {
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::int64_t targets = 0;  // of the uncut samples, without each first token, which is never asked for
  std::int64_t min_length = 0, max_length = 0;
  double mean_length = 0;
  std::int64_t images = 0, patches = 0, image_bytes = 0;
  std::int64_t clips = 0, frames = 0;
};

/// A training set: TokenLists, whose lists are samples of at least 2 tokens, with ImageSets and AudioSets or without,
/// and with
///
///   loss_mask   [T] uint8      1: this token is a target; none of an image's or a clip's is
///
/// Opening checks everything but the tokens and the mask, which are checked when they are read. Lengths are in tokens.
/// `max_length` cuts samples to so many tokens; 0: uncut.
class DataFile {
 public:
  explicit DataFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return lists_.path(); }
  std::int64_t vocab_size() const { return lists_.vocab_size(); }
  std::int64_t pad_token_id() const { return lists_.pad_token_id(); }
  const std::optional<std::string>& tokenizer() const { return lists_.tokenizer(); }
  std::int64_t samples() const { return lists_.count(); }
  const std::optional<ImageSets>& images() const { return images_; }
  const std::optional<AudioSets>& audio() const { return audio_; }

  /// Both as TokenLists has them.
  void check_tokenizer(const std::filesystem::path& directory) const { lists_.check_tokenizer(directory); }
  void check_base(const std::filesystem::path& directory, std::int64_t vocab_size) const {
    lists_.check_base(directory, vocab_size);
  }
  /// Throw Error unless the base takes the file's images and clips, if it has any.
  void check_images(const std::filesystem::path& directory, const std::optional<VisionInput>& base) const {
    if (images_) images_->check_base(directory, base);
  }
  void check_audio(const std::filesystem::path& directory, const std::optional<AudioInput>& base) const {
    if (audio_) audio_->check_base(directory, base);
  }

  /// Length of sample i.
  std::int64_t length(std::int64_t i, std::int64_t max_length = 0) const;
  /// Positions, length - 1, of the longest sample: what a model's max_position_embeddings must reach.
  std::int64_t longest(std::int64_t max_length = 0) const;

  /// `refused`: media tokens that it must not have, but those of its images and clips.
  Sample sample(std::int64_t i, std::int64_t max_length = 0, std::span<const std::int64_t> refused = {}) const;

  /// Reads and checks every sample, every image and every clip.
  Summary check_all() const;

 private:
  /// How many of `media` the sample shows.
  std::int64_t shown(const MediaSets& media, std::int64_t i, const Sample& sample) const;

  TokenLists lists_;
  hdf5::Dataset loss_mask_;
  std::optional<ImageSets> images_;
  std::optional<AudioSets> audio_;
};

}  // namespace mtp::data
