#include "mtp/data/data_file.h"

#include <algorithm>

#include "mtp/core/error.h"

namespace mtp::data {

std::int64_t Sample::labels() const { return std::count(is_target.begin() + 1, is_target.end(), 1); }

DataFile::DataFile(const std::filesystem::path& path)
    : lists_(path, {.item = "sample", .use = "trained on", .shortest = 2}),
      loss_mask_(open_list(lists_.file(), path, "loss_mask", lists_.total())),
      images_(ImageSets::of(lists_)) {}

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
  lists_.read(i, sample.tokens, ImageSets::refused_beside(images_, refused));
  loss_mask_.read(lists_.begin(i), std::span(sample.is_target));
  for (std::int64_t t = 0; t < n; ++t)
    if (sample.is_target[t] > 1)
      throw Error("{}: sample {}: loss_mask of token {} is {}, it must be 0 or 1", path().string(), i, t,
                  sample.is_target[t]);
  if (images_) find_images(i, sample);
  return sample;
}

void DataFile::find_images(std::int64_t i, Sample& sample) const {
  for (std::size_t t = 0; t < sample.tokens.size(); ++t)
    if (sample.is_target[t] != 0 && sample.tokens[t] == images_->image_token_id())
      throw Error("{}: sample {}: token {} is an image's and a target, which none of these can be", path().string(), i,
                  t);
  const std::span inputs = std::span(sample.tokens).first(sample.tokens.size() - 1);
  const bool is_cut = std::ssize(sample.tokens) < lists_.length(i);
  sample.images = images_->shown(i, inputs, sample.tokens.back(), is_cut);
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
  summary.mean_length = static_cast<double>(summary.tokens) / static_cast<double>(summary.samples);
  return summary;
}

}  // namespace mtp::data
