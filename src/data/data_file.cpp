#include "mtp/data/data_file.h"

#include <algorithm>

#include "mtp/core/error.h"

namespace mtp::data {

std::int64_t Sample::labels() const { return std::count(is_target.begin() + 1, is_target.end(), 1); }

DataFile::DataFile(const std::filesystem::path& path)
    : lists_(path, {.item = "sample", .use = "trained on", .shortest = 2}),
      loss_mask_(open_list(lists_.file(), path, "loss_mask", lists_.total())),
      images_(ImageSets::of(lists_)),
      audio_(AudioSets::of(lists_)) {}

std::int64_t DataFile::length(std::int64_t i, std::int64_t max_length) const {
  MTP_ASSERT(i >= 0 && i < samples());
  return max_length > 0 ? std::min(lists_.length(i), max_length) : lists_.length(i);
}

std::int64_t DataFile::longest(std::int64_t max_length) const {
  std::int64_t positions = 0;
  for (std::int64_t i = 0; i < samples(); ++i) positions = std::max(positions, length(i, max_length) - 1);
  return positions;
}

Sample DataFile::sample(std::int64_t i, std::int64_t max_length, std::span<const std::int64_t> refused) const {
  const std::int64_t n = length(i, max_length);
  Sample sample{.tokens = std::vector<std::int32_t>(n), .is_target = std::vector<std::uint8_t>(n)};
  std::vector<std::int64_t> of_no_media(refused.begin(), refused.end());
  if (images_) std::erase(of_no_media, images_->token_id());
  if (audio_) std::erase(of_no_media, audio_->token_id());
  lists_.read(i, sample.tokens, of_no_media);
  loss_mask_.read(lists_.begin(i), std::span(sample.is_target));
  for (std::int64_t t = 0; t < n; ++t)
    if (sample.is_target[t] > 1)
      throw Error("{}: sample {}: loss_mask of token {} is {}, it must be 0 or 1", path().string(), i, t,
                  sample.is_target[t]);
  if (images_) sample.images = shown(*images_, i, sample);
  if (audio_) sample.clips = shown(*audio_, i, sample);
  return sample;
}

std::int64_t DataFile::shown(const MediaSets& media, std::int64_t i, const Sample& sample) const {
  media.check_targets(i, sample.tokens, sample.is_target);
  const std::span inputs = std::span(sample.tokens).first(sample.tokens.size() - 1);
  const bool is_cut = std::ssize(sample.tokens) < lists_.length(i);
  return media.shown(i, inputs, sample.tokens.back(), is_cut);
}

Summary DataFile::check_all() const {
  Summary summary{.samples = samples(), .tokens = lists_.total(), .min_length = length(0)};
  for (std::int64_t i = 0; i < samples(); ++i) {
    summary.targets += sample(i).labels();
    summary.min_length = std::min(summary.min_length, length(i));
    summary.max_length = std::max(summary.max_length, length(i));
  }
  if (images_) {
    summary.images = images_->count();
    summary.patches = images_->patches();
    summary.image_bytes = images_->patches() * images_->patch_bytes();
    for (std::int64_t i = 0; i < images_->count(); ++i) images_->read(i);
  }
  if (audio_) {
    summary.clips = audio_->count();
    summary.frames = audio_->frames();
    for (std::int64_t i = 0; i < audio_->count(); ++i) audio_->read(i);
  }
  summary.mean_length = static_cast<double>(summary.tokens) / static_cast<double>(summary.samples);
  return summary;
}

}  // namespace mtp::data
