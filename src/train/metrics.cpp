#include "mtp/train/metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "mtp/core/error.h"
#include "mtp/core/json.h"
#include "mtp/dist/ordered_sum.h"

namespace mtp::train {

namespace {

/// A line that a killed run left unfinished ends the reading.
std::vector<std::string> lines_up_to(const std::filesystem::path& path, std::int64_t last_step) {
  std::vector<std::string> kept;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const Json json = Json::parse(line, nullptr, false);
    if (json.is_discarded() || json.value("step", std::int64_t{0}) > last_step) break;
    kept.push_back(line);
  }
  return kept;
}

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds + 0.5);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

std::vector<double> sum_losses(const dist::Communicator& communicator, const std::vector<model::LossSums>& mine,
                               std::int64_t count) {
  std::vector<double> flat;
  for (const model::LossSums& sums : mine) {
    flat.push_back(sums.base);
    flat.insert(flat.end(), sums.rounds.begin(), sums.rounds.end());
  }
  const std::vector<double> all = communicator.all_gather(flat, "the losses");
  const std::size_t parts = flat.size() / mine.size(), ranks = communicator.size();
  std::vector<double> sums;
  for (std::size_t part = 0; part < parts; ++part) {
    std::vector<double> leaves;
    for (std::size_t i = 0; i < mine.size(); ++i)
      for (std::size_t r = 0; r < ranks; ++r) leaves.push_back(all[r * flat.size() + i * parts + part]);
    leaves.resize(static_cast<std::size_t>(count));
    sums.push_back(dist::ordered_sum(leaves));
  }
  return sums;
}

std::string exact(double value) { return fmt::format("{:.16e}", value); }

std::string exact(const std::vector<double>& values) {
  std::vector<std::string> texts;
  for (const double value : values) texts.push_back(exact(value));
  return fmt::format("[{}]", fmt::join(texts, ", "));
}

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

void MetricsFile::append(const std::string& line) {
  out_ << line << '\n' << std::flush;
  if (!out_) throw Error("{}: cannot be written; check the free space", path_.string());
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
