#pragma once

#include <cstdint>
#include <vector>

#include "mtp/tensor/tensor.h"

namespace mtp::ops {

/// The sequences of a micro-batch, packed one after another into T rows without padding: sequence b has rows
/// begin(b) … end(b) - 1. The first row of each has position 0, but where every row has a position of its own.
class Sequences {
 public:
  explicit Sequences(const std::vector<std::int64_t>& lengths) {
    for (std::int64_t n : lengths) {
      MTP_ASSERT(n > 0);
      offsets_.push_back(offsets_.back() + n);
    }
  }
  /// Rows that stand where the device finds it in `positions`: an operation that is run again (tensor/replay.h) may
  /// find other ones.   positions [T] int64
  static Sequences at(Tensor positions) {
    Sequences sequences({positions.elements()});
    sequences.positions_ = std::move(positions);
    return sequences;
  }
  bool has_positions() const { return !positions_.empty(); }
  const Tensor& positions() const { return positions_; }
  std::int64_t count() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }
  std::int64_t rows() const { return offsets_.back(); }
  std::int64_t begin(std::int64_t b) const { return offsets_[b]; }
  std::int64_t end(std::int64_t b) const { return offsets_[b + 1]; }
  std::int64_t length(std::int64_t b) const { return end(b) - begin(b); }

 private:
  std::vector<std::int64_t> offsets_{0};
  Tensor positions_;
};

}  // namespace mtp::ops
