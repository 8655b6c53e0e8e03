#include "mtp/train/trainer.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <cmath>
#include <fstream>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/export.h"
#include "mtp/checkpoint/source.h"
#include "mtp/core/log.h"
#include "mtp/core/signals.h"
#include "mtp/train/step_profile.h"

namespace mtp::train {

namespace {

using Clock = std::chrono::steady_clock;

/// Rank 0's first: nobody works for a run that another job holds. From here on there is a log in it.
checkpoint::RunDirectory take_run_directory(const std::filesystem::path& path,
                                            const parallel::Communicator& communicator) {
  std::optional<checkpoint::RunDirectory> directory;
  if (communicator.is_first()) directory.emplace(path);
  communicator.barrier("the making of run.dir");
  if (!communicator.is_first()) directory.emplace(checkpoint::RunDirectory::of_other_rank(path));
  start_log(communicator.rank(), communicator.is_first() ? path : std::filesystem::path());
  return std::move(*directory);
}

void write_settings_file(const Settings& settings) {
  const std::filesystem::path path = settings.run.dir / "settings.cfg";
  std::ofstream out(path);
  write_settings(out, settings);
  if (!out.flush()) throw Error("{}: cannot be written; check run.dir and the free space", path.string());
}

std::string size_of(const Device& device) {
  if (device.kind() == Device::Kind::cpu) return fmt::format("{} threads", device.threads().threads());
  return fmt::format("{} GiB", device.memory_size() >> 30);
}

}  // namespace

Trainer::Trainer(Inputs inputs, Device& device, const parallel::Communicator& communicator,
                 const std::optional<Resumption>& from)
    : device_(device),
      communicator_(communicator),
      inputs_(std::move(inputs)),
      run_directory_(take_run_directory(settings().run.dir, communicator)),
      state_(settings(), inputs_.pair(), device, communicator),
      saver_({settings(), inputs_.fingerprints(), inputs_.arithmetic(), communicator.size()}, load(from),
             state_.parameters().units(), device, communicator),
      order_(inputs_.sampler()),
      loader_(inputs_.data(), order_, inputs_.reading()),
      ranking_(inputs_.ranking()),
      log_(settings(), inputs_.first_step(), inputs_.steps(), communicator.is_first()) {
  saver_.check_room();
  if (const auto& data = inputs_.validation_data())
    validation_.emplace(settings(), *data, inputs_.reading().batch, state_.joint(), communicator);
}

checkpoint::Manifest Trainer::load(const std::optional<Resumption>& from) {
  const parallel::LongerWait longer_wait(
      communicator_);  // reading a pair takes its time, and not the same on all ranks
  if (from)
    checkpoint::restore(
        from->state, state_.parameters().units(),
        [&](const parallel::ShardedUnit& unit) { state_.parameters().load(inputs_.pair(), device_, unit); }, device_,
        communicator_);
  else
    parallel::agree(communicator_, "the loading of the pair", [&] {
      state_.parameters().load(inputs_.pair(), device_);
      if (settings().drafter.share_embedding_with_base)
        state_.parameters().share_embedding_with_base(inputs_.pair(), device_);
    });
  if (!communicator_.is_first()) return {};
  if (from) spdlog::info("resumed after step {} from {}", inputs_.first_step(), from->state.directory().string());
  return fill_run_directory(from);
}

checkpoint::Manifest Trainer::fill_run_directory(const std::optional<Resumption>& from) const {
  const std::filesystem::path& path = settings().run.dir;
  checkpoint::clean(path, inputs_.first_step());
  write_settings_file(settings());
  if (from && !from->allows("model")) return checkpoint::share_source(from->state, path);
  return checkpoint::store_source(inputs_.pair(), path);
}

Trainer::End Trainer::run() {
  try {
    return train();
  } catch (const AgreedError&) {
    saver_.wait();  // what was saved before is sound
    throw;
  }
}

Trainer::End Trainer::train() {
  const StopSignals signals;
  spdlog::info("{} steps of {} sequences on {} ranks, {} samples", inputs_.steps(), settings().train.global_batch,
               communicator_.size(), inputs_.data().samples());
  spdlog::info("device {}; {}; {} ranks on {} nodes, tensors by {}; computing in {}", inputs_.arithmetic(),
               size_of(device_), communicator_.size(), communicator_.nodes(), communicator_.transport().name(),
               to_string(state_.compute_dtype()));
  if (validation_ && !inputs_.is_resumed()) validate(0);  // what the source pair does
  std::optional<StepProfile> profile;
  if (settings().run.profile) profile.emplace(device_);
  for (std::int64_t s = inputs_.first_step(); s < inputs_.steps(); ++s) {
    if (profile) profile->begin_step();
    const StepMetrics metrics = step(s);
    if (profile) profile->end_step();
    saver_.advance();
    log_.add(metrics);
    const bool is_best = validation_ && validation_->is_due(metrics.step, inputs_.steps()) && validate(metrics.step);
    const bool is_last = metrics.step == inputs_.steps() || is_out_of_patience(settings(), ranking_);
    // A signal may have reached any one rank: all stop after the same step.
    const bool stops = communicator_.max(signals.received(), "stop signals") > 0;
    const std::int64_t every = settings().checkpoint.every_steps;
    const bool is_due = every > 0 && metrics.step % every == 0;
    if (is_last || stops || is_best || is_due) save(metrics.step, is_last || stops);
    if ((is_last || stops) && profile && communicator_.is_first()) profile->write(settings().run.dir / "profile.json");
    if (stops && !is_last) {
      spdlog::info("stopped by a signal after step {}; go on by mtp-resume --from {}", metrics.step,
                   settings().run.dir.string());
      return End::stopped;
    }
    if (is_last && metrics.step < inputs_.steps()) {
      spdlog::info("ended after step {}: {} validations since the best, of step {}", metrics.step,
                   ranking_.since_best(), ranking_.best_first().front());
      break;
    }
  }
  if (settings().checkpoint.export_at_end) export_pair();
  return End::done;
}

bool Trainer::validate(std::int64_t step) {
  const ValidationMetrics metrics = validation_->run(step);
  log_.add(metrics);
  ranking_.add(to_json_line(metrics));
  const std::vector<std::int64_t> best_first = ranking_.best_first();
  return !best_first.empty() && best_first.front() == step;
}

void Trainer::export_pair() const {
  std::string from;
  parallel::agree(communicator_, "the choice of a checkpoint", [&] {
    if (!communicator_.is_first()) return;
    const auto best = checkpoint::best_checkpoint(settings().run.dir);
    from = best ? best->directory : checkpoint::named_checkpoints(settings().run.dir).front();
  });
  checkpoint::export_hf(communicator_.all_gather(from, "the choice of a checkpoint").front(), settings().run.dir / "hf",
                        {.force = true}, communicator_);
}

void Trainer::save(std::int64_t step, bool run_ends) {
  const std::int64_t next = step * settings().train.global_batch;  // item of the stream of samples
  saver_.save({.step = step,
               .epoch = order_.epoch(step),
               .position = next % inputs_.data().samples(),
               .next_lr = inputs_.schedule().rate(step),
               .best_first = ranking_.best_first(),
               .run_ends = run_ends});
  if (!run_ends) return;
  saver_.finish();
  log_.finish();
}

StepMetrics Trainer::step(std::int64_t step) {
  const auto start = Clock::now();
  const std::vector<data::MicroBatch> batches = loader_.next();
  StepMetrics metrics;
  metrics.step = step + 1;
  metrics.epoch = order_.epoch(step);
  for (const data::MicroBatch& batch : batches) {
    metrics.label_tokens += batch.label_tokens();
    metrics.tokens += batch.sequences.rows();
  }
  metrics.label_tokens = communicator_.sum(metrics.label_tokens, "the step's labels");
  metrics.tokens = communicator_.sum(metrics.tokens, "the step's tokens");
  metrics.lr = inputs_.schedule().rate(step);
  if (metrics.label_tokens > 0)
    learn(batches, step, metrics);
  else
    skip(metrics);
  metrics.memory_peak = device_.memory_peak();
  metrics.ranks = communicator_.size();
  metrics.step_time = std::chrono::duration<double>(Clock::now() - start).count();
  return metrics;
}

/// A step without a label changes nothing.
void Trainer::skip(StepMetrics& metrics) const {
  metrics.loss_drafter.resize(static_cast<std::size_t>(settings().drafter.rounds));
  spdlog::warn("step {}: none of its samples has a label within data.max_length; it changes nothing", metrics.step);
}

void Trainer::learn(const std::vector<data::MicroBatch>& batches, std::int64_t step, StepMetrics& metrics) {
  const std::vector<model::LossSums> losses = state_.forward_backward(batches, metrics.label_tokens);
  metrics.set_losses(sum_losses(communicator_, losses, std::ssize(losses) * communicator_.size()), settings().drafter);
  metrics.expert_loads = sum_loads(communicator_, losses);
  metrics.grad_norm = state_.optimizer().gradient_norm();
  if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm))
    throw AgreedError(
        fmt::format("step {}: loss {} and gradient norm {} are not finite; lower optimizer.lr or check the "
                    "data",
                    metrics.step, metrics.loss, metrics.grad_norm),
        1);
  if (step == 0 && !settings().run.dump_gradients.empty()) state_.write_gradients(settings().run.dump_gradients);
  state_.optimizer().update(step, metrics.lr, metrics.grad_norm);
}

}  // namespace mtp::train
