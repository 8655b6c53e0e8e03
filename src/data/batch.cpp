#include "mtp/data/batch.h"

#include <algorithm>

#include "mtp/ops/cross_entropy.h"

namespace mtp::data {

std::int64_t MicroBatch::label_tokens() const {
  return std::count_if(labels.begin(), labels.end(), [](std::int64_t label) { return label != ops::no_label; });
}

MicroBatch make_micro_batch(const DataFile& file, std::span<const std::int64_t> samples, const BatchOptions& options) {
  std::vector<std::int64_t> lengths, ids, labels;
  Images images;
  Clips clips;
  for (const std::int64_t i : samples) {
    const Sample sample = file.sample(i, options.max_length, options.refused_ids);
    const std::size_t positions = sample.tokens.size() - 1;
    const std::span inputs = std::span(sample.tokens).first(positions);
    if (file.images()) file.images()->append(i, sample.images, inputs, std::ssize(ids), images);
    if (file.audio()) file.audio()->append(i, sample.clips, inputs, std::ssize(ids), clips);
    for (std::size_t t = 0; t < positions; ++t) {
      ids.push_back(sample.tokens[t]);
      labels.push_back(sample.is_target[t + 1] ? sample.tokens[t + 1] : ops::no_label);
    }
    lengths.push_back(static_cast<std::int64_t>(positions));
  }
  return {.sequences = ops::Sequences(lengths),
          .ids = std::move(ids),
          .labels = std::move(labels),
          .images = std::move(images),
          .clips = std::move(clips)};
}

}  // namespace mtp::data
