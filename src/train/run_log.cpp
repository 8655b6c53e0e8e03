#include "mtp/train/run_log.h"

#include <spdlog/spdlog.h>

namespace mtp::train {

RunLog::RunLog(const Settings& settings, std::int64_t first_step, std::int64_t steps, bool is_first_rank)
    : every_steps_(settings.run.log_every_steps), steps_(steps), progress_(first_step, steps) {
  if (!is_first_rank) return;
  metrics_.emplace(settings.run.dir / "metrics.jsonl", first_step);
  if (settings.validation.every_steps > 0) validation_.emplace(settings.run.dir / "validation.jsonl", first_step);
}

void RunLog::add(const StepMetrics& metrics) {
  if (!metrics_) return;
  metrics_->append(to_json_line(metrics));
  if (metrics.step % every_steps_ == 0 || metrics.step == steps_) spdlog::info("{}", progress_.line(metrics));
}

void RunLog::add(const ValidationMetrics& metrics) {
  if (!validation_) return;
  validation_->append(to_json_line(metrics));
  spdlog::info("{}", to_log_line(metrics));
}

void RunLog::finish() {
  if (metrics_) metrics_->finish();
  if (validation_) validation_->finish();
}

}  // namespace mtp::train
