#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "mtp/core/hdf5.h"

namespace mtp::data {

/// A new data file of text (docs/files.md), the same bytes for the same samples. It is written as .NAME.partial and
/// gets its name when it is finished; otherwise nothing stays of it. Throws Error that names the file.
class DataWriter {
 public:
  struct Header {
    std::int64_t vocab_size = 0, pad_token_id = 0;
    std::optional<std::string> tokenizer = {};
  };
  /// `lengths`: of the samples, in their order.
  DataWriter(std::filesystem::path path, const Header& header, std::span<const std::int64_t> lengths);
  DataWriter(const DataWriter&) = delete;
  DataWriter& operator=(const DataWriter&) = delete;

  /// The next sample.
  void append(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> is_target);
  /// Once all are there: waits until the file is on the disk, under its name in place of an older one.
  void finish();

 private:
  /// A file that is gone afterwards, unless it got another name.
  struct Partial {
    std::filesystem::path path;
    ~Partial();
  };
  std::filesystem::path path_;
  Partial partial_;
  hdf5::File file_;
  std::optional<hdf5::Dataset> tokens_, loss_mask_;
  std::int64_t written_ = 0;
};

}  // namespace mtp::data
