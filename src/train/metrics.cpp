#include "mtp/train/metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mtp/core/error.h"

namespace mtp::train {

namespace {

std::string exact(double value) { return fmt::format("{:.16e}", value); }

std::string exact(const std::vector<double>& values) {
  std::vector<std::string> texts;
  for (const double value : values) texts.push_back(exact(value));
  return fmt::format("[{}]", fmt::join(texts, ", "));
}

std::vector<std::string> lines_up_to(const std::filesystem::path& path, std::int64_t last_step) {
  std::vector<std::string> kept;
  std::ifstream in(path);
  for (std::string line; kept.size() < static_cast<std::size_t>(last_step) && std::getline(in, line);)
    kept.push_back(line);
  return kept;
}

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds + 0.5);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

std::string to_json_line(const StepMetrics& m) {
  return fmt::format(R"({{"step": {}, "epoch": {}, "loss": {}, "loss_base": {}, "loss_drafter": {}, "grad_norm": {}, )"
                     R"("lr": {}, "label_tokens": {}, "tokens": {}, "step_time": {}, "tokens_per_second": {}, )"
                     R"("memory_peak": {}, "ranks": {}}})",
                     m.step, m.epoch, exact(m.loss), exact(m.loss_base), exact(m.loss_drafter), exact(m.grad_norm),
                     exact(m.lr), m.label_tokens, m.tokens, exact(m.step_time), exact(m.tokens_per_second()),
                     m.memory_peak, m.ranks);
}

MetricsFile::MetricsFile(const std::filesystem::path& path, std::int64_t last_step) : path_(path) {
  const std::vector<std::string> kept = lines_up_to(path, last_step);
  out_.open(path, std::ios::trunc);
  for (const std::string& line : kept) out_ << line << '\n';
  if (!out_) throw Error("{}: cannot be written; check run.dir and the free space", path_.string());
}

void MetricsFile::append(const StepMetrics& metrics) {
  out_ << to_json_line(metrics) << '\n' << std::flush;
  if (!out_) throw Error("{}: writing step {} failed; check the free space", path_.string(), metrics.step);
}

std::string Progress::line(const StepMetrics& m) const {
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double left = elapsed / static_cast<double>(m.step - first_step_) * static_cast<double>(total_steps_ - m.step);
  return fmt::format(
      "step {}/{}  loss {:.4f}  base {:.4f}  drafter {:.3f}  norm {:.3g}  lr {:.2e}  {:.0f} tokens/s  {} left", m.step,
      total_steps_, m.loss, m.loss_base, fmt::join(m.loss_drafter, " "), m.grad_norm, m.lr, m.tokens_per_second(),
      duration(left));
}

}  // namespace mtp::train
