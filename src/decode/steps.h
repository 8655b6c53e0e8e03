#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "mtp/decode/cache.h"
#include "mtp/model/pair.h"
#include "mtp/tensor/replay.h"

namespace mtp::decode {

/// What decoding computes on the device, of one text at a time: a prompt's forward, then steps that are replayed, one
/// replay for every number of rows. The host writes position and tokens before a step and waits once, for its choices.
class Steps {
 public:
  using Ids = std::vector<std::int64_t>;

  /// For texts of up to `positions`, of which a step verifies up to `most_rows`. What is passed by reference must
  /// outlive it.
  Steps(Device& device, const model::Pair& pair, const model::RoundAlignment& alignment, DType dtype,
        std::int64_t positions, std::int64_t most_rows);
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  std::int64_t positions() const { return cache_.positions(); }

  /// Begins a text, with the images that it shows, if any. Returns the base's final hidden state of its last token.
  ///   [1, H]
  Tensor read(std::span<const std::int64_t> prompt, const std::optional<model::ImageInput>& images);
  /// The base's choice after what `read` read; -1: its logits are no numbers.
  std::int64_t choice();
  /// The base's choices after each of some tokens that it looks up, the first of which has the given position.
  Ids verify(std::int64_t position, std::span<const std::int64_t> ids);
  /// `count` tokens that the drafter expects after `token`, from the base's state in row `row` of what was last read or
  /// verified, which has the given position.
  Ids draft(std::int64_t position, std::int64_t row, std::int64_t token, std::int64_t count);

 private:
  void queue_verify(std::int64_t rows);
  void queue_draft(std::int64_t count);
  void choose(std::int64_t rows);
  Ids run(std::map<std::int64_t, Replay>& replays, std::int64_t size, void (Steps::*queue)(std::int64_t));

  Device& device_;
  const model::BaseModel& base_;
  const model::Drafter& drafter_;
  const model::RoundAlignment& alignment_;
  Tensor token_ordering_;  // [V] int64; empty without centroids
  Cache cache_;
  model::Stores stores_;  // the rings that the drafter attends to

  // What steps read and write:
  Tensor position_;  // [1] int64: of the first row
  Tensor row_;       // [1] int64: of `hidden_`, where the drafter begins
  Tensor ids_;       // [rows] int64
  Tensor hidden_;    // [rows, H] the base's final hidden states
  Tensor choices_;   // [rows] int64

  std::map<std::int64_t, Replay> verify_, draft_;  // by rows and by drafts
};

}  // namespace mtp::decode
