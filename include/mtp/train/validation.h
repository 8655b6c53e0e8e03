#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mtp/checkpoint/ranking.h"
#include "mtp/core/settings.h"
#include "mtp/data/batch.h"
#include "mtp/model/joint.h"
#include "mtp/parallel/communicator.h"

namespace mtp::train {

/// One line of validation.jsonl.
struct ValidationMetrics {
  std::int64_t step = 0;              // 1-based, after its update; 0: before the first
  double loss_base = 0;               // over the base's label tokens, as in training
  std::vector<double> loss_drafter;   // [K], against the labels, over the same number
  std::vector<double> accuracy_data;  // [K] of a round's labels, the part that it chooses; 0 where it has none
  std::vector<double> accuracy_base;  // [K] of the same positions, the part at which it chooses what the base does
  /// 1 + the mean number of rounds before the first that disagrees with the base, over the positions whose rounds all
  /// have labels; 1 where there are none.
  double accepted_length = 1;
  /// The same mean over those positions only at which decoding the text would draft: a step begins where the one before
  /// ended. On the base's own greedy text this is what decoding measures.
  double tokens_per_step = 1;
};

/// As one line of JSON; floats have 17 digits.
std::string to_json_line(const ValidationMetrics& metrics);
/// The line that the screen and the log show.
std::string to_log_line(const ValidationMetrics& metrics);

/// Whether the last `validation.patience` validations were no better than the best before them.
bool is_out_of_patience(const Settings& settings, const checkpoint::Ranking& ranking);

/// Measures a pair on the first `validation.max_samples` samples of `data.validation`, in the order of the file and in
/// micro-batches of `train.micro_batch` that the ranks share. The bits do not depend on the number of ranks.
class Validation {
 public:
  /// All must outlive it.
  Validation(const Settings& settings, const data::DataFile& data, data::BatchOptions batch, model::Joint& joint,
             const parallel::Communicator& communicator);

  /// Whether it is due after step `step`, 1-based, of `steps`.
  bool is_due(std::int64_t step, std::int64_t steps) const;
  /// Collective. Throws AgreedError where no sample has a label or a loss is not finite.
  ValidationMetrics run(std::int64_t step);

 private:
  model::ValidationSums validate(std::int64_t micro_batch);
  ValidationMetrics reduce(std::int64_t step, const std::vector<model::ValidationSums>& mine) const;

  const Settings& settings_;
  const data::DataFile& data_;
  data::BatchOptions batch_;
  model::Joint& joint_;
  const parallel::Communicator& communicator_;
  std::int64_t samples_, micro_batches_;  // over all ranks
};

}  // namespace mtp::train
