#include "mtp/model/validation_counts.h"

#include <utility>

#include "mtp/ops/cross_entropy.h"

namespace mtp::model {

std::vector<std::int64_t> shift_left(const ops::Sequences& sequences, std::span<const std::int64_t> values,
                                     std::int64_t by, std::int64_t fill) {
  std::vector<std::int64_t> shifted(values.size(), fill);
  for (std::int64_t b = 0; b < sequences.count(); ++b)
    for (std::int64_t row = sequences.begin(b); row + by < sequences.end(b); ++row) shifted[row] = values[row + by];
  return shifted;
}

ValidationCounter::ValidationCounter(const ops::Sequences& sequences, std::span<const std::int64_t> labels,
                                     std::vector<std::int64_t> base_choices)
    : sequences_(sequences),
      labels_(labels),
      base_choices_(std::move(base_choices)),
      all_labels_(labels.size(), 1),
      agrees_(labels.size(), 1),
      accepted_(labels.size()) {}

RoundCounts ValidationCounter::add_round(std::span<const std::int64_t> labels, std::span<const std::int64_t> choices,
                                         std::int64_t lead) {
  const std::vector<std::int64_t> teachers = shift_left(sequences_, base_choices_, lead, ops::no_label);
  RoundCounts counts;
  for (std::size_t t = 0; t < labels.size(); ++t) {
    const bool has_label = labels[t] != ops::no_label, agrees = has_label && choices[t] == teachers[t];
    counts.labels += has_label;
    counts.right += has_label && choices[t] == labels[t];
    counts.agreed += agrees;
    all_labels_[t] = all_labels_[t] && has_label;
    agrees_[t] = agrees_[t] && agrees;
    accepted_[t] += agrees_[t];
  }
  return counts;
}

void ValidationCounter::finish(ValidationSums& sums) const {
  for (std::size_t t = 0; t < all_labels_.size(); ++t) {
    if (!all_labels_[t]) continue;
    ++sums.drafts;
    sums.accepted += accepted_[t];
  }
  for (std::int64_t b = 0; b < sequences_.count(); ++b) add_steps(b, sums);
}

/// Goes over a sequence as decoding does: from where its first asked-for token is known, on by what a step gives.
void ValidationCounter::add_steps(std::int64_t sequence, ValidationSums& sums) const {
  for (std::int64_t t = sequences_.begin(sequence); t < sequences_.end(sequence);) {
    if (labels_[t] == ops::no_label || !all_labels_[t]) {
      ++t;
      continue;
    }
    const std::int64_t tokens = accepted_[t] + 1;
    ++sums.steps;
    sums.step_tokens += tokens;
    t += tokens;
  }
}

}  // namespace mtp::model
