#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/ops/sequences.h"

namespace mtp::ops {

/// The images of a micro-batch, packed one after another into P rows of patches: image i has rows begin(i) …
/// begin(i + 1) - 1, row by row from the top left, so its patch p is at x = p mod width, y = ⌊p / width⌋.
class PatchGrids {
 public:
  struct Size {
    std::int64_t width = 0, height = 0;  // in patches
    std::int64_t patches() const { return width * height; }
  };

  void add(Size size) {
    MTP_ASSERT(size.width > 0 && size.height > 0);
    sizes_.push_back(size);
    begins_.push_back(begins_.back() + size.patches());
  }
  bool empty() const { return sizes_.empty(); }
  std::int64_t count() const { return std::ssize(sizes_); }
  std::int64_t rows() const { return begins_.back(); }
  std::int64_t begin(std::int64_t i) const { return begins_[i]; }
  const Size& size(std::int64_t i) const { return sizes_[i]; }

  /// [2, rows()]: x of every patch, then y of every patch.
  std::vector<std::int64_t> positions() const {
    std::vector<std::int64_t> x, y;
    for (const Size& size : sizes_)
      for (std::int64_t p = 0; p < size.patches(); ++p) {
        x.push_back(p % size.width);
        y.push_back(p / size.width);
      }
    x.insert(x.end(), y.begin(), y.end());
    return x;
  }

  /// In two tables of positions that are one: for every patch the row of its x, `step` · x, and that of its y,
  /// `step` · y + `lines`.
  std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> rows_of_tables(std::int64_t step,
                                                                                 std::int64_t lines) const {
    std::vector<std::int64_t> x = positions(), y(x.begin() + rows(), x.end());
    x.resize(rows());
    for (std::int64_t& row : x) row *= step;
    for (std::int64_t& row : y) row = row * step + lines;
    return {std::move(x), std::move(y)};
  }

  /// Each image's patches as a sequence of their own, for operations that look at nothing but neighbours in one.
  Sequences sequences() const {
    std::vector<std::int64_t> lengths;
    for (const Size& size : sizes_) lengths.push_back(size.patches());
    return Sequences(lengths);
  }

 private:
  std::vector<Size> sizes_;
  std::vector<std::int64_t> begins_{0};
};

}  // namespace mtp::ops
