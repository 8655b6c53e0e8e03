#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"
#include "mtp/data/token_lists.h"

namespace mtp::data {

/// What the lists of a file show beside text, images or clips of sound: each stands in its list as so many tokens of
/// one id, one after the other in their order. Errors are as in ImageSets and AudioSets.
class MediaSets {
 public:
  std::int64_t token_id() const { return token_id_; }
  std::int64_t count() const { return std::ssize(offsets_) - 1; }
  /// The first one of list i; that of list i + 1 is one past its last.
  std::int64_t first(std::int64_t i) const { return lists_[i]; }
  virtual std::int64_t soft_tokens(std::int64_t number) const = 0;

  /// How many of those of list i `inputs` show, the first tokens of it that a model is given; `label`: the token behind
  /// them that is only asked for, if any. Those whose tokens are all cut off are not counted; a cut through one is
  /// refused.
  std::int64_t shown(std::int64_t i, std::span<const std::int32_t> inputs, std::optional<std::int32_t> label,
                     bool is_cut) const;
  /// Throws Error where one of their tokens is a target.
  void check_targets(std::int64_t i, std::span<const std::int32_t> tokens,
                     std::span<const std::uint8_t> is_target) const;

 protected:
  /// What messages call them, and their part in the names of attributes and datasets.
  struct Kind {
    std::string name;       // "image"
    std::string one, many;  // "an image", "images"
  };
  MediaSets(const TokenLists& lists, Kind kind);
  ~MediaSets() = default;

  const std::string& where() const { return where_; }
  std::int64_t offset(std::int64_t number) const { return offsets_[number]; }
  /// Elements of all of them, and of one.
  std::int64_t elements() const { return offsets_.back(); }
  std::int64_t elements(std::int64_t number) const { return offsets_[number + 1] - offsets_[number]; }
  /// Appends the rows of their tokens.
  void append_rows(std::span<const std::int32_t> inputs, std::int64_t row, std::vector<std::int64_t>& rows) const;

  /// A dataset of two dimensions with so many rows.
  static hdf5::Dataset open_table(const TokenLists& lists, const std::string& name, std::int64_t rows);

 private:
  Kind kind_;
  std::string where_, item_;  // "data.h5", "sample"
  std::int64_t token_id_;
  std::vector<std::int64_t> offsets_, lists_;
};

}  // namespace mtp::data
