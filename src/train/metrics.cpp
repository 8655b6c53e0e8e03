#include "mtp/train/metrics.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <ranges>

#include "mtp/core/json.h"
#include "mtp/core/json_lines.h"
#include "mtp/core/progress.h"
#include "mtp/parallel/ordered_sum.h"

namespace mtp::train {

std::vector<double> sum_losses(const parallel::Communicator& communicator, const std::vector<model::LossSums>& mine,
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
    sums.push_back(parallel::ordered_sum(leaves));
  }
  return sums;
}

model::ExpertLoads sum_loads(const parallel::Communicator& communicator, const std::vector<model::LossSums>& mine) {
  model::ExpertLoads loads = mine.front().expert_loads;
  for (std::size_t layer = 0; layer < loads.size(); ++layer) {
    for (const model::LossSums& other : mine | std::views::drop(1))
      std::ranges::transform(loads[layer], other.expert_loads[layer], loads[layer].begin(), std::plus());
    communicator.sum(loads[layer], "the experts' loads");
  }
  return loads;
}

double load_entropy(const std::vector<std::int64_t>& load) {
  const auto total = static_cast<double>(std::accumulate(load.begin(), load.end(), std::int64_t{0}));
  double entropy = 0;
  for (const std::int64_t n : load)
    if (n > 0) entropy -= static_cast<double>(n) / total * std::log(static_cast<double>(n) / total);
  return load.size() > 1 ? entropy / std::log(static_cast<double>(load.size())) : 1;
}

void StepMetrics::set_losses(const std::vector<double>& sums, const Settings::Drafter& settings) {
  const auto labels = static_cast<double>(label_tokens);
  loss_base = loss = sums[0] / labels;
  for (std::int64_t k = 0; k + 1 < std::ssize(sums); ++k) {
    loss_drafter.push_back(sums[k + 1] / labels);
    loss += settings.weight(k) * loss_drafter.back();
  }
}

KeptLines kept_lines(const std::filesystem::path& path, std::int64_t last_step) {
  KeptLines kept;
  read_json_lines(path, [&](const std::string& line, const Json& json) {
    const auto step = json.value("step", std::int64_t{0});
    if (step > last_step) return false;
    kept = {kept.bytes + line.size() + 1, step};
    return true;
  });
  return kept;
}

std::string json_text(double value) { return fmt::format("{:.16e}", value); }

std::string json_text(const std::vector<double>& values) {
  std::vector<std::string> texts;
  for (const double value : values) texts.push_back(json_text(value));
  return fmt::format("[{}]", fmt::join(texts, ", "));
}

namespace {

/// What a step of a base with experts has besides.
std::string experts_text(const StepMetrics& m) {
  if (m.expert_loads.empty()) return {};
  std::vector<std::string> loads;
  std::vector<double> busiest, entropy;
  for (const std::vector<std::int64_t>& load : m.expert_loads) {
    loads.push_back(fmt::format("[{}]", fmt::join(load, ", ")));
    busiest.push_back(static_cast<double>(std::ranges::max(load)) / static_cast<double>(m.tokens));
    entropy.push_back(load_entropy(load));
  }
  return fmt::format(R"(, "expert_load": [{}], "expert_busiest": {}, "expert_entropy": {})", fmt::join(loads, ", "),
                     json_text(busiest), json_text(entropy));
}

}  // namespace

std::string to_json_line(const StepMetrics& m) {
  return fmt::format(R"({{"step": {}, "epoch": {}, "loss": {}, "loss_base": {}, "loss_drafter": {}, "grad_norm": {}, )"
                     R"("lr": {}, "label_tokens": {}, "tokens": {}, "step_time": {}, "tokens_per_second": {}, )"
                     R"("memory_peak": {}, "ranks": {}{}}})",
                     m.step, m.epoch, json_text(m.loss), json_text(m.loss_base), json_text(m.loss_drafter),
                     json_text(m.grad_norm), json_text(m.lr), m.label_tokens, m.tokens, json_text(m.step_time),
                     json_text(m.tokens_per_second()), m.memory_peak, m.ranks, experts_text(m));
}

std::string Pace::line(const StepMetrics& m) const {
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double left = elapsed / static_cast<double>(m.step - first_step_) * static_cast<double>(total_steps_ - m.step);
  return fmt::format(
      "step {}/{}  loss {:.4f}  base {:.4f}  drafter {:.3f}  norm {:.3g}  lr {:.2e}  {:.0f} tokens/s  {} left", m.step,
      total_steps_, m.loss, m.loss_base, fmt::join(m.loss_drafter, " "), m.grad_norm, m.lr, m.tokens_per_second(),
      duration(left));
}

}  // namespace mtp::train
