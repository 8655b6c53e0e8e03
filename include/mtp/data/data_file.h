#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"

namespace mtp::data {

/// One sample: n ≥ 2 tokens, and for each 1 where it is a target to learn, else 0.
struct Sample {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> is_target;
};

/// What a whole data file holds.
struct Summary {
  std::int64_t samples = 0;
  std::int64_t tokens = 0;
  std::int64_t targets = 0;  // of the uncut samples, without each first token, which is never asked for
  std::int64_t min_length = 0, max_length = 0;
  double mean_length = 0;
};

/// A training set in HDF5:
///
///   attributes  format "mtp-data", version 1, vocab_size, pad_token_id, optional tokenizer (SHA-256 of its file)
///   tokens      [T] int32      0 ≤ token < vocab_size
///   loss_mask   [T] uint8      1: this token is a target
///   offsets     [N+1] int64    sample i has tokens offsets[i] … offsets[i+1] - 1
///
/// Opening checks everything but the tokens and the mask, which are checked when they are read. Throws Error in one
/// line that names the file and the sample. Files with images are refused. May be used by several threads.
/// Lengths are in tokens. `max_length` cuts samples to so many tokens; 0: uncut.
class DataFile {
 public:
  explicit DataFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::int64_t vocab_size() const { return vocab_size_; }
  std::int64_t pad_token_id() const { return pad_token_id_; }
  const std::optional<std::string>& tokenizer() const { return tokenizer_; }
  std::int64_t samples() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }

  /// Length of sample i.
  std::int64_t length(std::int64_t i, std::int64_t max_length = 0) const;
  /// Positions, length - 1, of the longest sample: what a model's max_position_embeddings must reach.
  std::int64_t longest(std::int64_t max_length = 0) const;

  Sample sample(std::int64_t i, std::int64_t max_length = 0) const;

  /// Reads and checks every sample.
  Summary check_all() const;

 private:
  std::filesystem::path path_;
  hdf5::File file_;
  std::int64_t vocab_size_;
  std::int64_t pad_token_id_;
  hdf5::Dataset tokens_;
  hdf5::Dataset loss_mask_;
  std::vector<std::int64_t> offsets_;
  std::optional<std::string> tokenizer_;
};

}  // namespace mtp::data
