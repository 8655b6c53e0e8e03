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

/// Prompts to go on from: TokenLists, whose lists are prompts of at least one token, and which may have
///
///   kind   [N] int32   with an attribute names, one a line: what each prompt is, "code" or "prose"
///
/// It has no loss_mask, which is what tells it from a data file.
class PromptsFile {
 public:
  explicit PromptsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return lists_.path(); }
  std::int64_t vocab_size() const { return lists_.vocab_size(); }
  std::int64_t pad_token_id() const { return lists_.pad_token_id(); }
  const std::optional<std::string>& tokenizer() const { return lists_.tokenizer(); }
  std::int64_t prompts() const { return lists_.count(); }
  const std::optional<ImageSets>& images() const { return images_; }
  const std::optional<AudioSets>& audio() const { return audio_; }

  /// As TokenLists has it.
  void check_base(const std::filesystem::path& directory, std::int64_t vocab_size) const {
    lists_.check_base(directory, vocab_size);
  }

  /// `refused`: media tokens that it must not have, but those of its images and clips.
  std::vector<std::int64_t> prompt(std::int64_t i, std::span<const std::int64_t> refused = {}) const;
  /// What prompt i is; empty where the file does not say.
  std::string kind(std::int64_t i) const { return kinds_.empty() ? "" : kinds_[i]; }
  /// Those of prompt i; its tokens are rows 0, 1, ….
  Images images(std::int64_t i) const;
  Clips clips(std::int64_t i) const;
  /// Throw Error unless the base takes the file's images and clips, if it has any.
  void check_images(const std::filesystem::path& directory, const std::optional<VisionInput>& base) const {
    if (images_) images_->check_base(directory, base);
  }
  void check_audio(const std::filesystem::path& directory, const std::optional<AudioInput>& base) const {
    if (audio_) audio_->check_base(directory, base);
  }

 private:
  std::vector<std::int32_t> tokens(std::int64_t i, std::span<const std::int64_t> refused) const;

  TokenLists lists_;
  std::vector<std::string> kinds_;  // [prompts], or empty
  std::optional<ImageSets> images_;
  std::optional<AudioSets> audio_;
};

}  // namespace mtp::data
