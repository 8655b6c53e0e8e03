#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mtp/data/data_file.h"
#include "mtp/ops/sequences.h"

namespace mtp::data {

/// What one forward and backward sees, on the host: sequences packed one after another into T rows, without padding.
/// A sample of n tokens gives n - 1 rows: row t holds token t and is asked for token t + 1.
struct MicroBatch {
  ops::Sequences sequences;
  std::vector<std::int64_t> ids;     // [T]
  std::vector<std::int64_t> labels;  // [T] token t + 1 where it is a target, else ops::no_label
  Images images;
  Clips clips;

  std::int64_t label_tokens() const;
};

struct BatchOptions {
  std::int64_t max_length = 0;                 // tokens a sample is cut to; 0: uncut
  std::vector<std::int64_t> refused_ids = {};  // image, video and audio tokens: a sample with one cannot be used
};

/// Reads samples and packs them in the given order. Throws Error that names the file and the sample.
MicroBatch make_micro_batch(const DataFile& file, std::span<const std::int64_t> samples, const BatchOptions& options);

}  // namespace mtp::data
