#include "mtp/data/data_file.h"

#include <algorithm>

#include "mtp/core/error.h"

namespace mtp::data {
namespace {

hdf5::File open_checked(const std::filesystem::path& path) {
  hdf5::File file = hdf5::File::open(path);
  const std::string where = path.string();
  if (!file.has_attribute("format") || file.attribute<std::string>("format") != "mtp-data")
    throw Error("{} is not a data file: its attribute format must be mtp-data", where);
  if (const auto version = file.attribute<std::int64_t>("version"); version != 1)
    throw Error("{} is a data file of version {}, this program reads version 1", where, version);
  for (const char* name : {"patches", "patch_positions", "image_offsets", "sample_images"})
    if (file.exists(name)) throw Error("{} has images (dataset {}), which cannot be trained on yet", where, name);
  return file;
}

hdf5::Dataset open_list(const hdf5::File& file, const std::string& where, const std::string& name) {
  hdf5::Dataset dataset = file.dataset(name);
  if (dataset.shape().size() != 1) throw Error("{}: dataset {} must have one dimension", where, name);
  dataset.check_is_stored();
  return dataset;
}

void check_length(const hdf5::Dataset& dataset, const std::string& where, const std::string& name,
                  std::int64_t tokens) {
  if (dataset.elements() != tokens)
    throw Error("{}: dataset {} has {} elements, offsets end at {}", where, name, dataset.elements(), tokens);
}

std::vector<std::int64_t> read_offsets(const hdf5::File& file, const std::string& where) {
  auto offsets = open_list(file, where, "offsets").read_all<std::int64_t>();
  if (offsets.size() < 2) throw Error("{} has no samples", where);
  if (offsets.front() != 0) throw Error("{}: offsets start at {}, not at 0", where, offsets.front());
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
    if (offsets[i + 1] < offsets[i] || offsets[i + 1] - offsets[i] < 2)
      throw Error("{}: sample {} lies at {} to {}: a sample must have at least 2 tokens", where, i, offsets[i],
                  offsets[i + 1]);
  return offsets;
}

}  // namespace

DataFile::DataFile(const std::filesystem::path& path)
    : path_(path),
      file_(open_checked(path)),
      vocab_size_(file_.attribute<std::int64_t>("vocab_size")),
      pad_token_id_(file_.attribute<std::int64_t>("pad_token_id")),
      tokens_(open_list(file_, path.string(), "tokens")),
      loss_mask_(open_list(file_, path.string(), "loss_mask")),
      offsets_(read_offsets(file_, path.string())) {
  if (file_.has_attribute("tokenizer")) tokenizer_ = file_.attribute<std::string>("tokenizer");
  if (vocab_size_ < 1) throw Error("{}: attribute vocab_size is {}, it must be at least 1", path.string(), vocab_size_);
  if (pad_token_id_ < 0 || pad_token_id_ >= vocab_size_)
    throw Error("{}: attribute pad_token_id is {}, outside the vocabulary of {}", path.string(), pad_token_id_,
                vocab_size_);
  check_length(tokens_, path.string(), "tokens", offsets_.back());
  check_length(loss_mask_, path.string(), "loss_mask", offsets_.back());
}

std::int64_t DataFile::length(std::int64_t i, std::int64_t max_length) const {
  MTP_ASSERT(i >= 0 && i < samples());
  const std::int64_t whole = offsets_[i + 1] - offsets_[i];
  return max_length > 0 ? std::min(whole, max_length) : whole;
}

std::int64_t DataFile::longest(std::int64_t max_length) const {
  std::int64_t positions = 0;
  for (std::int64_t i = 0; i < samples(); ++i) positions = std::max(positions, length(i, max_length) - 1);
  return positions;
}

Sample DataFile::sample(std::int64_t i, std::int64_t max_length) const {
  const std::int64_t n = length(i, max_length);
  Sample sample{.tokens = std::vector<std::int32_t>(n), .is_target = std::vector<std::uint8_t>(n)};
  tokens_.read(offsets_[i], std::span(sample.tokens));
  loss_mask_.read(offsets_[i], std::span(sample.is_target));
  for (std::int64_t t = 0; t < n; ++t) {
    if (sample.tokens[t] < 0 || sample.tokens[t] >= vocab_size_)
      throw Error("{}: sample {}: token {} is {}, outside the vocabulary of {}", path_.string(), i, t, sample.tokens[t],
                  vocab_size_);
    if (sample.is_target[t] > 1)
      throw Error("{}: sample {}: loss_mask of token {} is {}, it must be 0 or 1", path_.string(), i, t,
                  sample.is_target[t]);
  }
  return sample;
}

Summary DataFile::check_all() const {
  Summary summary{.samples = samples(), .tokens = offsets_.back(), .min_length = length(0)};
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
