#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mtp/model/losses.h"
#include "mtp/ops/sequences.h"

namespace mtp::model {

/// What a validation counts in one round, over the positions at which the round has a label.
struct RoundCounts {
  std::int64_t labels = 0;
  std::int64_t right = 0;   // its choice is the label
  std::int64_t agreed = 0;  // its choice is the base's own choice for that place
};

/// What a validation adds up of a micro-batch.
struct ValidationSums {
  LossSums losses;
  std::int64_t label_tokens = 0;    // of the base
  std::vector<RoundCounts> rounds;  // [K]
  std::int64_t drafts = 0;          // positions whose K rounds all have labels
  std::int64_t accepted = 0;        // over those positions: rounds before the first that disagrees with the base
  std::int64_t steps = 0;           // those of the positions at which decoding would draft
  std::int64_t step_tokens = 0;     // that these steps give: the accepted drafts and one more each
};

/// Counts a micro-batch's choices, round after round.
class ValidationCounter {
 public:
  /// `labels` [T]: the next tokens, or ops::no_label. `base_choices` [T]: the base's own choice at each row. What is
  /// passed by reference must outlive the counter.
  ValidationCounter(const ops::Sequences& sequences, std::span<const std::int64_t> labels,
                    std::vector<std::int64_t> base_choices);

  /// `labels`, `choices` [T]: of a round that runs ahead of its row by `lead`.
  RoundCounts add_round(std::span<const std::int64_t> labels, std::span<const std::int64_t> choices, std::int64_t lead);
  /// After the last round.
  void finish(ValidationSums& sums) const;

 private:
  void add_steps(std::int64_t sequence, ValidationSums& sums) const;

  const ops::Sequences& sequences_;
  std::span<const std::int64_t> labels_;
  std::vector<std::int64_t> base_choices_;
  std::vector<char> all_labels_;        // [T] whether every round so far has a label
  std::vector<char> agrees_;            // [T] whether every round so far agrees with the base
  std::vector<std::int64_t> accepted_;  // [T] rounds up to there
};

/// Row t of each sequence gets values[t + by], or `fill` past the end.
std::vector<std::int64_t> shift_left(const ops::Sequences& sequences, std::span<const std::int64_t> values,
                                     std::int64_t by, std::int64_t fill);

}  // namespace mtp::model
