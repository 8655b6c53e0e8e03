#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/model/joint.h"
#include "mtp/parallel/communicator.h"

namespace mtp::train {

/// One line of metrics.jsonl. Losses are over the label tokens of the global batch.
struct StepMetrics {
  std::int64_t step = 0;   // 1-based
  std::int64_t epoch = 0;  // 0-based, of the step's first sample
  double loss_base = 0;
  std::vector<double> loss_drafter;  // [K], without their weights
  double loss = 0;                   // base + Σ weight(k) · drafter of round k
  double grad_norm = 0;              // before clipping
  double lr = 0;
  std::int64_t label_tokens = 0;  // of the global batch
  std::int64_t tokens = 0;        // positions of the global batch, without padding
  double step_time = 0;           // s
  std::int64_t memory_peak = 0;   // bytes on this rank's device
  int ranks = 1;
  model::ExpertLoads expert_loads = {};

  /// `sums`: what `sum_losses` gives of the step.
  void set_losses(const std::vector<double>& sums, const Settings::Drafter& settings);
  double tokens_per_second() const { return static_cast<double>(tokens) / step_time; }
};

/// Σ over micro-batches 0 … count - 1, in their order, of what each gave: base, rounds. `mine`: those of this rank,
/// r, r + R, r + 2R, …, equally many on every rank; what lies past `count` is left out. Collective.
std::vector<double> sum_losses(const parallel::Communicator& communicator, const std::vector<model::LossSums>& mine,
                               std::int64_t count);

/// The loads of all micro-batches of the step. Collective.
model::ExpertLoads sum_loads(const parallel::Communicator& communicator, const std::vector<model::LossSums>& mine);

/// The entropy of the shares that experts have in a layer's choices, of the most that it can be: 1 where all are chosen
/// alike, 0 where always the same one is.
double load_entropy(const std::vector<std::int64_t>& load);

/// As JSON, with 17 digits: they read back to the same bits.
std::string json_text(double value);
std::string json_text(const std::vector<double>& values);

/// As one line of JSON; floats have 17 digits, so that they read back to the same bits.
std::string to_json_line(const StepMetrics& metrics);

/// What a resumed run keeps of metrics.jsonl or validation.jsonl.
struct KeptLines {
  std::uintmax_t bytes = 0;
  std::int64_t last_step = 0;
};
/// The lines up to a step.
KeptLines kept_lines(const std::filesystem::path& path, std::int64_t last_step);

/// The line that the screen and the log show, with the time left at the mean pace so far.
class Pace {
 public:
  /// Of steps first_step + 1 … total_steps.
  Pace(std::int64_t first_step, std::int64_t total_steps)
      : first_step_(first_step), total_steps_(total_steps), start_(std::chrono::steady_clock::now()) {}
  std::string line(const StepMetrics& metrics) const;

 private:
  std::int64_t first_step_, total_steps_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace mtp::train
