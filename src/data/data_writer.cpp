#include "mtp/data/data_writer.h"

#include <numeric>
#include <system_error>
#include <utility>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp::data {

namespace fs = std::filesystem;

namespace {

fs::path partial_of(const fs::path& path) {
  check_is_file(path);
  return path.parent_path() / fmt::format(".{}.partial", path.filename().string());
}

}  // namespace

DataWriter::DataWriter(fs::path path, const Header& header, std::span<const std::int64_t> lengths)
    : path_(std::move(path)),
      partial_{partial_of(path_)},
      file_(hdf5::File::create(partial_.path)),
      tokens_(file_.create_dataset<std::int32_t>("tokens", {std::reduce(lengths.begin(), lengths.end())})),
      loss_mask_(file_.create_dataset<std::uint8_t>("loss_mask", tokens_->shape())) {
  file_.set_attribute("format", std::string("mtp-data"));
  file_.set_attribute("version", std::int64_t{1});
  file_.set_attribute("vocab_size", header.vocab_size);
  file_.set_attribute("pad_token_id", header.pad_token_id);
  if (header.tokenizer) file_.set_attribute("tokenizer", *header.tokenizer);
  std::vector<std::int64_t> offsets{0};
  for (const std::int64_t length : lengths) offsets.push_back(offsets.back() + length);
  file_.create_dataset<std::int64_t>("offsets", {std::ssize(offsets)}).write<std::int64_t>(0, offsets);
}

DataWriter::Partial::~Partial() {
  std::error_code unused;
  fs::remove(path, unused);
}

void DataWriter::append(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> is_target) {
  MTP_ASSERT(tokens.size() == is_target.size());
  tokens_->write(written_, tokens);
  loss_mask_->write(written_, is_target);
  written_ += std::ssize(tokens);
}

void DataWriter::finish() {
  MTP_ASSERT(written_ == tokens_->elements());
  tokens_.reset();
  loss_mask_.reset();
  file_.close();
  sync_to_disk(partial_.path);
  fs::rename(partial_.path, path_);
  sync_to_disk(fs::absolute(path_).parent_path());
}

}  // namespace mtp::data
