#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"

namespace mtp::data {

/// What all of this project's HDF5 inputs hold, lists of tokens:
///
///   attributes  format "mtp-data", version 1, vocab_size, pad_token_id, optional tokenizer (SHA-256 of its file)
///   tokens      [T] int32      0 ≤ token < vocab_size
///   offsets     [N+1] int64    list i has tokens offsets[i] … offsets[i+1] - 1
///
/// Opening checks everything but the tokens, which are checked when they are read. Throws Error in one line that names
/// the file and the list. May be used by several threads.
class TokenLists {
 public:
  /// What messages call a list, "sample", and what it is for, "trained on"; how many tokens it must have.
  struct Kind {
    std::string item, use;
    std::int64_t shortest = 1;
  };
  TokenLists(const std::filesystem::path& path, Kind kind);

  const std::filesystem::path& path() const { return path_; }
  const Kind& kind() const { return kind_; }
  const hdf5::File& file() const { return file_; }
  std::int64_t vocab_size() const { return vocab_size_; }
  std::int64_t pad_token_id() const { return pad_token_id_; }
  const std::optional<std::string>& tokenizer() const { return tokenizer_; }

  std::int64_t count() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }
  std::int64_t begin(std::int64_t i) const { return offsets_[i]; }
  std::int64_t length(std::int64_t i) const { return offsets_[i + 1] - offsets_[i]; }
  std::int64_t total() const { return offsets_.back(); }

  /// Throws Error unless the file is made for a base of so many tokens and, where the file says whose it is and the
  /// base's directory has one, with its tokenizer: every Gemma has as many tokens, and they are not the same.
  void check_base(const std::filesystem::path& directory, std::int64_t vocab_size) const;
  /// The second half of that.
  void check_tokenizer(const std::filesystem::path& directory) const;

  /// The first tokens of list i, as many as there are places. `refused`: image, video and audio tokens, which a list
  /// must not have.
  void read(std::int64_t i, std::span<std::int32_t> tokens, std::span<const std::int64_t> refused = {}) const;

 private:
  std::filesystem::path path_;
  Kind kind_;
  hdf5::File file_;
  std::int64_t vocab_size_;
  std::int64_t pad_token_id_;
  std::vector<std::int64_t> offsets_;
  hdf5::Dataset tokens_;
  std::optional<std::string> tokenizer_;
};

/// A dataset of one dimension with `elements` elements, all in this file.
hdf5::Dataset open_list(const hdf5::File& file, const std::filesystem::path& path, const std::string& name,
                        std::optional<std::int64_t> elements = std::nullopt);

}  // namespace mtp::data
