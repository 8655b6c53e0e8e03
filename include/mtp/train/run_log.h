#pragma once

#include <cstdint>
#include <optional>

#include "mtp/core/append_file.h"
#include "mtp/core/settings.h"
#include "mtp/train/event_file.h"
#include "mtp/train/metrics.h"
#include "mtp/train/validation.h"

namespace mtp::train {

/// The record of a run: metrics.jsonl, validation.jsonl, with `run.tensorboard` its curves for TensorBoard, and the
/// lines on the screen and in log.txt. Writes on rank 0; on other ranks the same calls do nothing.
class RunLog {
 public:
  /// Keeps what the files say of steps up to `first_step`. Throws Error where they cannot be written.
  RunLog(const Settings& settings, std::int64_t first_step, std::int64_t steps, bool is_first_rank);

  void add(const StepMetrics& metrics);
  void add(const ValidationMetrics& metrics);
  /// Throws Error where a line could not be written.
  void finish();

 private:
  std::int64_t every_steps_, steps_;
  std::optional<AppendFile> metrics_, validation_;  // on rank 0
  std::optional<EventFile> events_;                 // there, with run.tensorboard
  Pace pace_;
};

}  // namespace mtp::train
