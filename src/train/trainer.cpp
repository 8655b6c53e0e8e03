#include "mtp/train/trainer.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>

#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/export.h"
#include "mtp/checkpoint/fingerprint.h"
#include "mtp/checkpoint/source.h"
#include "mtp/core/log.h"
#include "mtp/core/signals.h"
#include "mtp/dist/arithmetic.h"
#include "mtp/train/step_profile.h"

namespace mtp::train {

namespace {

using Clock = std::chrono::steady_clock;

data::Loader::Options loader_options(const Plan& plan, const hf::Pair& pair, const dist::Communicator& communicator,
                                     std::int64_t first_step) {
  const Settings& settings = plan.settings;
  return {.micro_batch = settings.train.micro_batch,
          .batch = {.max_length = settings.data.max_length, .refused_ids = pair.base_config.special_ids},
          .prefetch = settings.data.prefetch,
          .rank = communicator.rank(),
          .ranks = communicator.size(),
          .first_step = first_step,
          .end_step = plan.steps};
}

data::Sampler sampler(const Settings& settings, const data::DataFile& data) {
  return data::Sampler({.samples = data.samples(),
                        .global_batch = settings.train.global_batch,
                        .shuffle = settings.data.shuffle,
                        .seed = settings.data.seed});
}

/// Reads the samples of a rank's share: a bad one ends the run here, not after hours.
void check_samples(const data::DataFile& data, const data::Loader::Options& options) {
  for (std::int64_t i = options.rank; i < data.samples(); i += options.ranks)
    data::make_micro_batch(data, {&i, 1}, options.batch);
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

bool allows(const Resumption& from, const char* change) { return std::ranges::count(from.allowed_changes, change) > 0; }

}  // namespace

Trainer::Trainer(const Settings& settings, Device& device, const dist::Communicator& communicator,
                 const std::optional<Resumption>& from)
    : device_(device),
      communicator_(communicator),
      arithmetic_(dist::arithmetic_of(communicator, device)),
      first_step_(from ? from->state.step() : 0),
      is_resumed_(from.has_value()),
      sharding_{.device = device,
                .communicator = communicator,
                .reduction = settings.dist.reduction,
                .moment_dtype = settings.optimizer.moments == Moments::bf16 ? DType::bf16 : DType::f32,
                .moments_on_host = settings.optimizer.moments_on == MomentsPlace::host} {
  const dist::Patience patience(communicator);  // reading a pair takes its time, and not the same on all ranks
  dist::agree(communicator, "the check of the pair and the data", [&] { check(settings, from); });
  sharding_.micro_batches = plan_.micro_batches;
  sharding_.compute_dtype = plan_.settings.train.compute_dtype == ComputeType::bf16 ? DType::bf16 : DType::f32;
  if (is_finished()) {
    checkpoint::verify(from->state, communicator);
    return;
  }
  fingerprints_ = checkpoint::take_fingerprints(settings, communicator);
  dist::agree(communicator, "the check of the run's files", [&] { check_files(from); });
  start(from);
}

void Trainer::check(const Settings& settings, const std::optional<Resumption>& from) {
  const bool is_from_source = from && !allows(*from, "model");
  pair_ = is_from_source
              ? std::make_unique<hf::Pair>(checkpoint::open_source(settings, from->state.directory() / "source"))
              : std::make_unique<hf::Pair>(settings);
  data_ = std::make_unique<data::DataFile>(settings.data.train);
  if (settings.validation.every_steps > 0)
    validation_data_ = std::make_unique<data::DataFile>(settings.data.validation);
  plan_ = make_plan(settings, *pair_, *data_, validation_data_.get(), device_.kind(), communicator_.size());
  if (!from) check_is_new(settings);
  if (from && from->state.text("device") != arithmetic_ && !allows(*from, "run.device"))
    throw UsageError(
        "setting run.device: the run was on another kind of device, {}; this is {}; --allow-change run.device if that "
        "is meant",
        from->state.text("device"), arithmetic_);
}

void Trainer::check_files(const std::optional<Resumption>& from) {
  if (!from) return;
  const auto before = checkpoint::fingerprints_of(from->state);
  checkpoint::check_fingerprints(before, fingerprints_, from->allowed_changes);
  fingerprints_.insert(before.begin(), before.end());  // of what is gone
}

void Trainer::start(const std::optional<Resumption>& from) {
  const Settings& settings = plan_.settings;
  const data::Loader::Options reading = loader_options(plan_, *pair_, communicator_, first_step_);
  dist::agree(communicator_, "the check of the samples", [&] {
    check_samples(*data_, reading);
    if (validation_data_) check_samples(*validation_data_, reading);
    if (settings.checkpoint.export_at_end) checkpoint::check_export_target(settings.run.dir / "hf", true);
  });
  take_run_directory();
  start_log(communicator_.rank(), communicator_.is_first() ? settings.run.dir : std::filesystem::path());
  for (const std::string& dropped : pair_->table.dropped()) spdlog::info("not used, dropped: {}", dropped);

  parameters_.emplace(pair_->table, sharding_);
  load(from);
  const checkpoint::Manifest source = communicator_.is_first() ? fill_run_directory(from) : checkpoint::Manifest();
  if (from) spdlog::info("resumed after step {} from {}", first_step_, from->state.directory().string());
  joint_.emplace(device_, settings, *pair_, *parameters_);
  optimizer_.emplace(settings.optimizer, settings.run.seed, device_, communicator_, parameters_->units());
  if (validation_data_) validation_.emplace(plan_.settings, *validation_data_, reading.batch, *joint_, communicator_);
  order_.emplace(sampler(settings, *data_));
  loader_.emplace(*data_, *order_, reading);
  const checkpoint::Run run{settings, fingerprints_, arithmetic_, communicator_.size()};
  saver_.emplace(run, source, parameters_->units(), device_, communicator_);
}

void Trainer::take_run_directory() {
  const std::filesystem::path& path = plan_.settings.run.dir;
  if (communicator_.is_first()) run_directory_.emplace(path);
  communicator_.barrier("the making of run.dir");  // nobody works for a run that another job holds
  if (!communicator_.is_first()) run_directory_.emplace(checkpoint::RunDirectory::of_other_rank(path));
}

void Trainer::load(const std::optional<Resumption>& from) {
  if (from) return checkpoint::restore(from->state, parameters_->units(), device_, communicator_);
  dist::agree(communicator_, "the loading of the pair", [&] {
    parameters_->load(*pair_, device_);
    if (plan_.settings.drafter.share_embedding_with_base) parameters_->share_embedding_with_base(device_);
  });
}

checkpoint::Manifest Trainer::fill_run_directory(const std::optional<Resumption>& from) {
  const std::filesystem::path& path = plan_.settings.run.dir;
  checkpoint::clean(path, first_step_);
  write_settings_file(plan_.settings);
  if (from && !allows(*from, "model")) return checkpoint::share_source(from->state, path);
  return checkpoint::store_source(*pair_, path);
}

Trainer::End Trainer::run() {
  if (is_finished()) {
    spdlog::info("step {} of {}: nothing left to do", first_step_, plan_.steps);
    return End::done;
  }
  try {
    return train();
  } catch (const AgreedError&) {
    saver_->wait();  // what was saved before is sound
    throw;
  }
}

Trainer::End Trainer::train() {
  const StopSignals signals;
  const Settings& settings = plan_.settings;
  std::optional<MetricsFile> metrics_file, validation_file;
  if (communicator_.is_first()) metrics_file.emplace(settings.run.dir / "metrics.jsonl", first_step_);
  if (communicator_.is_first() && validation_)
    validation_file.emplace(settings.run.dir / "validation.jsonl", first_step_);
  spdlog::info("{} steps of {} sequences on {} ranks, {} samples", plan_.steps, settings.train.global_batch,
               communicator_.size(), data_->samples());
  spdlog::info("device {}; {}; {} ranks on {} nodes, tensors by {}; computing in {}", arithmetic_, size_of(device_),
               communicator_.size(), communicator_.nodes(), communicator_.transport().name(),
               to_string(sharding_.compute_dtype));
  const auto validate = [&](std::int64_t step) {
    const ValidationMetrics validated = validation_->run(step);
    if (validation_file) validation_file->append(to_json_line(validated));
    spdlog::info("{}", to_log_line(validated));
  };
  if (validation_ && !is_resumed_) validate(0);  // what the source pair does
  const Progress progress(first_step_, plan_.steps);
  std::optional<StepProfile> profile;
  if (settings.run.profile) profile.emplace(device_.profile());
  for (std::int64_t s = first_step_; s < plan_.steps; ++s) {
    if (profile) profile->begin_step();
    const StepMetrics metrics = step(s);
    if (profile) profile->end_step();
    saver_->advance();
    if (metrics_file) metrics_file->append(to_json_line(metrics));
    if (metrics.step % settings.run.log_every_steps == 0 || metrics.step == plan_.steps)
      spdlog::info("{}", progress.line(metrics));
    if (validation_ && validation_->is_due(metrics.step, plan_.steps)) validate(metrics.step);
    const std::int64_t every = settings.checkpoint.every_steps;
    const bool is_last = metrics.step == plan_.steps;
    // A signal may have reached any one rank: all stop after the same step.
    const bool stops = communicator_.max(signals.received(), "stop signals") > 0;
    const bool ends = is_last || stops;
    if (ends || (every > 0 && metrics.step % every == 0)) save(metrics.step, ends);
    if (ends) saver_->finish();
    if (ends && metrics_file) metrics_file->finish();
    if (ends && validation_file) validation_file->finish();
    if (ends && profile && communicator_.is_first()) profile->write(settings.run.dir / "profile.json");
    if (stops && !is_last) {
      spdlog::info("stopped by a signal after step {}; go on by mtp-resume --from {}", metrics.step,
                   settings.run.dir.string());
      return End::stopped;
    }
  }
  if (settings.checkpoint.export_at_end)
    checkpoint::export_hf(checkpoint::named_checkpoints(settings.run.dir).front(), settings.run.dir / "hf",
                          {.force = true}, communicator_);
  return End::done;
}

void Trainer::save(std::int64_t step, bool run_ends) {
  const std::int64_t next = step * plan_.settings.train.global_batch;  // item of the stream of samples
  saver_->save(step, order_->epoch(step), next % data_->samples(), plan_.schedule.rate(step), run_ends);
}

StepMetrics Trainer::step(std::int64_t step) {
  const auto start = Clock::now();
  const std::vector<data::MicroBatch> batches = loader_->next();
  StepMetrics metrics;
  metrics.step = step + 1;
  metrics.epoch = order_->epoch(step);
  for (const data::MicroBatch& batch : batches) {
    metrics.label_tokens += batch.label_tokens();
    metrics.tokens += batch.sequences.rows();
  }
  metrics.label_tokens = communicator_.sum(metrics.label_tokens, "the step's labels");
  metrics.tokens = communicator_.sum(metrics.tokens, "the step's tokens");
  if (metrics.label_tokens == 0)
    throw AgreedError(fmt::format("step {}: none of its samples has a label; check the data file", metrics.step), 1);

  std::vector<model::LossSums> losses;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    sharding_.begin_micro_batches(static_cast<std::int64_t>(i) * communicator_.size());
    const data::MicroBatch& batch = batches[i];
    losses.push_back(joint_->forward_backward({batch.sequences, batch.ids, batch.labels}, metrics.label_tokens));
    sharding_.end_micro_batches();
  }

  const std::vector<double> sums = sum_losses(communicator_, losses, plan_.micro_batches);
  const auto labels = static_cast<double>(metrics.label_tokens);
  metrics.loss_base = metrics.loss = sums[0] / labels;
  for (std::size_t k = 1; k < sums.size(); ++k) {
    metrics.loss_drafter.push_back(sums[k] / labels);
    metrics.loss += plan_.settings.drafter.loss_weight * metrics.loss_drafter.back();
  }
  metrics.grad_norm = optimizer_->gradient_norm();
  if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm))
    throw AgreedError(
        fmt::format("step {}: loss {} and gradient norm {} are not finite; lower optimizer.lr or check the "
                    "data",
                    metrics.step, metrics.loss, metrics.grad_norm),
        1);
  if (step == 0 && !plan_.settings.run.dump_gradients.empty()) dump_gradients();
  metrics.lr = plan_.schedule.rate(step);
  optimizer_->update(step, metrics.lr, metrics.grad_norm);

  metrics.memory_peak = device_.memory_peak();
  metrics.ranks = communicator_.size();
  metrics.step_time = std::chrono::duration<double>(Clock::now() - start).count();
  return metrics;
}

void Trainer::dump_gradients() const {
  std::vector<const dist::ShardedUnit*> trained;
  for (const auto& unit : parameters_->units())
    if (unit->trained()) trained.push_back(unit.get());

  std::optional<hf::SafetensorsWriter> writer;
  if (communicator_.is_first()) {
    std::vector<hf::TensorEntry> entries;
    for (const dist::ShardedUnit* unit : trained)
      for (const auto& member : unit->layout().members()) entries.push_back({member.name, "F32", member.shape});
    writer.emplace(plan_.settings.run.dump_gradients, std::move(entries));
  }
  for (const dist::ShardedUnit* unit : trained) {
    const Tensor whole = unit->gather(unit->gradient_sum());
    for (std::size_t i = 0; writer && i < unit->layout().members().size(); ++i) {
      std::vector<float> values(unit->layout().members()[i].elements());
      device_.to_host(unit->member(whole, i), values);
      writer->append(std::as_bytes(std::span(values)));
    }
  }
  if (writer) writer->finish();
}

}  // namespace mtp::train
