#include "mtp/data/data_file.h"

#include <algorithm>

#include "mtp/core/error.h"

namespace mtp::data {

DataFile::DataFile(const std::filesystem::path& path)
    : lists_(path, {.item = "sample", .use = "trained on", .shortest = 2}),
      loss_mask_(open_list(lists_.file(), path, "loss_mask", lists_.total())) {}

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
  lists_.read(i, sample.tokens, refused);
  loss_mask_.read(lists_.begin(i), std::span(sample.is_target));
  for (std::int64_t t = 0; t < n; ++t)
    if (sample.is_target[t] > 1)
      throw Error("{}: sample {}: loss_mask of token {} is {}, it must be 0 or 1", path().string(), i, t,
                  sample.is_target[t]);
  return sample;
}

Summary DataFile::check_all() const {
  Summary summary{.samples = samples(), .tokens = lists_.total(), .min_length = length(0)};
  for (std::int64_t i = 0; i < samples(); ++i) {
    const auto mask = sample(i).is_target;
    summary.targets += std::count(mask.begin() + 1, mask.end(), 1);
    summary.min_length = std::min(summary.min_length, length(i));
    summary.max_length = std::max(summary.max_length, length(i));
  }
  summary.mean_length = static_cast<double>(summary.tokens) / static_cast<double>(summary.samples);
  return summary;
}

}  // namespace mtp::data
