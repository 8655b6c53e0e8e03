#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "mtp/checkpoint/directory.h"
#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"

namespace mtp::checkpoint {

/// A run's validations, ranked by `checkpoint.keep_best`. A function of the lines of validation.jsonl alone, so that a
/// run that was stopped decides as one that was not. A value for each drafter round counts by their mean; the
/// validation before the first step, after which nothing is saved, does not count.
class Ranking {
 public:
  explicit Ranking(KeepBest by) : by_(by) {}

  /// The next line of validation.jsonl.
  void add(const std::string& line);

  /// Steps, the best first; of equal ones the earlier. None where `by` is none.
  std::vector<std::int64_t> best_first() const;
  /// Validations since the best.
  std::int64_t since_best() const;

 private:
  struct Validated {
    std::int64_t step;
    double goodness;  // higher is better
  };

  KeepBest by_;
  std::vector<Validated> validated_;  // by step
};

/// Of what a run has validated up to a step; rank 0 reads. Collective.
Ranking ranking_of(const Settings& settings, std::int64_t last_step, const parallel::Communicator& communicator);

/// The best of a run's complete checkpoints, sound or not; none where the run keeps no best one, or has not validated
/// what it saved. Throws Error where the run cannot be read.
std::optional<Complete> best_checkpoint(const std::filesystem::path& run_dir);

}  // namespace mtp::checkpoint
