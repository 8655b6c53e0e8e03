#include "mtp/train/run_log.h"

#include <spdlog/spdlog.h>

#include <sstream>

namespace mtp::train {

namespace {

/// The bytes of metrics.jsonl that stay. It has a line of every step.
std::uintmax_t kept_metrics(const std::filesystem::path& path, std::int64_t first_step) {
  const KeptLines kept = kept_lines(path, first_step);
  if (kept.last_step < first_step && std::filesystem::exists(path) && std::filesystem::file_size(path) > kept.bytes)
    spdlog::warn("{}: what follows step {} cannot be read and is cut off; the steps up to {} are missing in it",
                 path.string(), kept.last_step, first_step);
  return kept.bytes;
}

}  // namespace

RunLog::RunLog(const Settings& settings, std::int64_t first_step, std::int64_t steps, bool is_first_rank)
    : every_steps_(settings.run.log_every_steps), steps_(steps), pace_(first_step, steps) {
  if (!is_first_rank) return;
  const std::filesystem::path metrics = settings.run.dir / "metrics.jsonl",
                              validation = settings.run.dir / "validation.jsonl";
  metrics_.emplace(metrics, kept_metrics(metrics, first_step));
  if (settings.validation.every_steps > 0) validation_.emplace(validation, kept_lines(validation, first_step).bytes);
  if (!settings.run.tensorboard) return;
  std::ostringstream text;
  write_settings(text, settings);
  events_.emplace(settings.run.dir / "events.out.tfevents.mtp", first_step, text.str());
}

void RunLog::add(const StepMetrics& metrics) {
  if (!metrics_) return;
  const std::string line = to_json_line(metrics);
  metrics_->append(line + "\n");
  if (events_) events_->add("train", line);
  if (metrics.step % every_steps_ == 0 || metrics.step == steps_) spdlog::info("{}", pace_.line(metrics));
}

void RunLog::add(const ValidationMetrics& metrics) {
  if (!validation_) return;
  const std::string line = to_json_line(metrics);
  validation_->append(line + "\n");
  if (events_) events_->add("validation", line);
  spdlog::info("{}", to_log_line(metrics));
}

void RunLog::finish() {
  if (metrics_) metrics_->finish();
  if (validation_) validation_->finish();
  if (events_) events_->finish();
}

}  // namespace mtp::train
