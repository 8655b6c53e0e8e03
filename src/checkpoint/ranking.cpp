#include "mtp/checkpoint/ranking.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

#include "mtp/core/file.h"
#include "mtp/core/json_lines.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

struct Metric {
  const char* key;  // in validation.jsonl
  double sign;      // 1 where higher is better, -1 where lower is
};

Metric metric_of(KeepBest by) {
  switch (by) {
    case KeepBest::none:
      break;
    case KeepBest::tokens_per_step:
      return {"tokens_per_step", 1};
    case KeepBest::accepted_length:
      return {"accepted_length", 1};
    case KeepBest::accuracy_base:
      return {"accuracy_base", 1};
    case KeepBest::accuracy_data:
      return {"accuracy_data", 1};
    case KeepBest::loss_base:
      return {"loss_base", -1};
    case KeepBest::loss_drafter:
      return {"loss_drafter", -1};
  }
  MTP_ASSERT(false);
  return {};
}

/// A number, or the mean of a list of numbers; none where a line of an older program does not have it.
std::optional<double> value_of(const Json& line, const char* key) {
  const Json found = line.value(key, Json());
  if (!found.is_array()) return try_get<double>(found);
  double sum = 0;
  for (const Json& part : found) sum += try_get<double>(part).value_or(std::numeric_limits<double>::quiet_NaN());
  const double mean = sum / static_cast<double>(found.size());
  return mean == mean ? std::optional(mean) : std::nullopt;
}

std::string lines_up_to(const fs::path& path, std::int64_t last_step) {
  std::string lines;
  read_json_lines(path, [&](const std::string& line, const Json& value) {
    if (value.value("step", std::int64_t{0}) > last_step) return false;
    lines += line + "\n";
    return true;
  });
  return lines;
}

Ranking ranking_of_lines(KeepBest by, const std::string& lines) {
  Ranking ranking(by);
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) ranking.add(line);
  return ranking;
}

/// As the run last wrote them.
Settings settings_of(const fs::path& run_dir) {
  std::ifstream in(run_dir / "settings.cfg");
  return resumed_settings({}, {std::string(std::istreambuf_iterator<char>(in), {}), run_dir});
}

}  // namespace

void Ranking::add(const std::string& line) {
  if (by_ == KeepBest::none) return;
  const auto [key, sign] = metric_of(by_);
  const Json json = parse_json(line, "a line of validation.jsonl");
  const std::int64_t step = json.value("step", std::int64_t{0});
  const std::optional<double> value = value_of(json, key);
  if (step > 0 && value) validated_.push_back({step, sign * *value});
}

std::vector<std::int64_t> Ranking::best_first() const {
  std::vector<Validated> ranked = validated_;
  std::ranges::stable_sort(ranked, std::ranges::greater(), &Validated::goodness);
  std::vector<std::int64_t> steps;
  for (const Validated& validated : ranked) steps.push_back(validated.step);
  return steps;
}

std::int64_t Ranking::since_best() const {
  if (validated_.empty()) return 0;
  const auto best = std::ranges::max_element(validated_, {}, &Validated::goodness);  // the first of equal ones
  return validated_.end() - best - 1;
}

Ranking ranking_of(const Settings& settings, std::int64_t last_step, const parallel::Communicator& communicator) {
  const std::string lines =
      communicator.is_first() ? lines_up_to(settings.run.dir / "validation.jsonl", last_step) : "";
  return ranking_of_lines(settings.checkpoint.keep_best,
                          communicator.all_gather(lines, "the run's validations").front());
}

std::optional<Complete> best_checkpoint(const fs::path& run_dir) {
  if (is_missing(run_dir / "settings.cfg")) return std::nullopt;
  const std::string lines = lines_up_to(run_dir / "validation.jsonl", std::numeric_limits<std::int64_t>::max());
  const std::vector<std::int64_t> steps =
      ranking_of_lines(settings_of(run_dir).checkpoint.keep_best, lines).best_first();
  const std::vector<Complete> all = complete_checkpoints(run_dir);
  const auto best = std::ranges::find_first_of(steps, all, {}, {}, &Complete::step);
  if (best == steps.end()) return std::nullopt;
  return *std::ranges::find(all, *best, &Complete::step);
}

}  // namespace mtp::checkpoint
