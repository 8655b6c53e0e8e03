#include "mtp/train/validation.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "mtp/core/progress.h"
#include "mtp/train/metrics.h"
#include "mtp/train/train_state.h"

namespace mtp::train {

namespace {

double ratio(std::int64_t part, std::int64_t of) {
  return of > 0 ? static_cast<double>(part) / static_cast<double>(of) : 0.0;
}

}  // namespace

std::string to_json_line(const ValidationMetrics& m) {
  return fmt::format(R"({{"step": {}, "loss_base": {}, "loss_drafter": {}, "accuracy_data": {}, "accuracy_base": {}, )"
                     R"("accepted_length": {}, "tokens_per_step": {}}})",
                     m.step, json_text(m.loss_base), json_text(m.loss_drafter), json_text(m.accuracy_data),
                     json_text(m.accuracy_base), json_text(m.accepted_length), json_text(m.tokens_per_step));
}

std::string to_log_line(const ValidationMetrics& m) {
  return fmt::format(
      "validation of step {}  base {:.4f}  drafter {:.3f}  agrees with the base {:.3f}  accepted {:.3f}  "
      "tokens a step {:.3f}",
      m.step, m.loss_base, fmt::join(m.loss_drafter, " "), fmt::join(m.accuracy_base, " "), m.accepted_length,
      m.tokens_per_step);
}

bool is_out_of_patience(const Settings& settings, const checkpoint::Ranking& ranking) {
  const std::int64_t patience = settings.validation.patience;
  return patience > 0 && ranking.since_best() >= patience;
}

Validation::Validation(const Settings& settings, const data::DataFile& data, data::BatchOptions batch,
                       model::Joint& joint, const parallel::Communicator& communicator)
    : settings_(settings), data_(data), batch_(std::move(batch)), joint_(joint), communicator_(communicator) {
  const std::int64_t most = settings.validation.max_samples, size = settings.train.micro_batch;
  samples_ = most > 0 ? std::min(most, data.samples()) : data.samples();
  micro_batches_ = (samples_ + size - 1) / size;
}

bool Validation::is_due(std::int64_t step, std::int64_t steps) const {
  return step == steps || step % settings_.validation.every_steps == 0;
}

ValidationMetrics Validation::run(std::int64_t step) {
  const std::int64_t ranks = communicator_.size();
  std::vector<model::ValidationSums> mine;
  Progress progress("validation", samples_, "samples");
  for (std::int64_t first = 0; first < micro_batches_; first += ranks) {
    mine.push_back(validate(first + communicator_.rank()));
    progress.add(ranks * settings_.train.micro_batch);
  }
  const ValidationMetrics metrics = reduce(step, mine);
  const double sum = std::accumulate(metrics.loss_drafter.begin(), metrics.loss_drafter.end(), metrics.loss_base);
  if (!std::isfinite(sum))
    throw AgreedError(
        fmt::format("validation of step {}: a loss is not finite; lower optimizer.lr or check the data", step), 1);
  return metrics;
}

model::ValidationSums Validation::validate(std::int64_t micro_batch) {
  // A rank without a micro-batch takes part in gathering all the same: it repeats the last one, which does not count.
  const std::int64_t size = settings_.train.micro_batch, begin = std::min(micro_batch, micro_batches_ - 1) * size;
  std::vector<std::int64_t> samples(std::min(size, samples_ - begin));
  std::iota(samples.begin(), samples.end(), begin);
  const data::MicroBatch batch = make_micro_batch(data_, samples, batch_);
  model::ValidationSums sums = joint_.validate(input_of(batch, joint_, communicator_));
  if (micro_batch < micro_batches_) return sums;
  return {.losses = std::move(sums.losses), .rounds = std::vector<model::RoundCounts>(sums.rounds.size())};
}

ValidationMetrics Validation::reduce(std::int64_t step, const std::vector<model::ValidationSums>& mine) const {
  const auto total = [&](const auto& count_of) {
    std::int64_t count = 0;
    for (const model::ValidationSums& sums : mine) count += count_of(sums);
    return communicator_.sum(count, "the validation");
  };
  const std::int64_t labels = total([](const auto& sums) { return sums.label_tokens; });
  if (labels == 0)
    throw AgreedError(fmt::format("{}: none of its first {} samples has a label", data_.path().string(), samples_), 1);

  std::vector<model::LossSums> losses;
  for (const model::ValidationSums& sums : mine) losses.push_back(sums.losses);
  const std::vector<double> loss_sums = sum_losses(communicator_, losses, micro_batches_);

  ValidationMetrics metrics;
  metrics.step = step;
  metrics.loss_base = loss_sums[0] / static_cast<double>(labels);
  for (std::size_t k = 0; k + 1 < loss_sums.size(); ++k) {
    const std::int64_t round_labels = total([k](const auto& sums) { return sums.rounds[k].labels; });
    metrics.loss_drafter.push_back(loss_sums[k + 1] / static_cast<double>(labels));
    metrics.accuracy_data.push_back(ratio(total([k](const auto& sums) { return sums.rounds[k].right; }), round_labels));
    metrics.accuracy_base.push_back(
        ratio(total([k](const auto& sums) { return sums.rounds[k].agreed; }), round_labels));
  }
  const std::int64_t drafts = total([](const auto& sums) { return sums.drafts; });
  metrics.accepted_length = 1 + ratio(total([](const auto& sums) { return sums.accepted; }), drafts);
  const std::int64_t steps = total([](const auto& sums) { return sums.steps; });
  if (steps > 0) metrics.tokens_per_step = ratio(total([](const auto& sums) { return sums.step_tokens; }), steps);
  return metrics;
}

}  // namespace mtp::train
