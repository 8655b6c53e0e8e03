#include "mtp/train/inputs.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/checkpoint/export.h"
#include "mtp/checkpoint/fingerprint.h"
#include "mtp/checkpoint/run_directory.h"
#include "mtp/checkpoint/source.h"
#include "mtp/parallel/arithmetic.h"
#include "mtp/tensor/out_of_memory.h"
#include "mtp/train/media.h"
#include "mtp/train/plan.h"
#include "mtp/train/train_state.h"
#include "mtp/train/validation.h"

namespace mtp::train {

namespace {

namespace fs = std::filesystem;

/// The folder may be the run directory, which is not there yet.
void check_gradient_file(const Settings& settings) {
  const fs::path file = fs::absolute(settings.run.dump_gradients).lexically_normal(), folder = file.parent_path();
  if (fs::is_directory(file))
    throw UsageError("setting run.dump_gradients: {} is a folder, name a file", file.string());
  const bool is_in_run_dir = folder == fs::absolute(settings.run.dir / "").lexically_normal().parent_path();
  if (!is_in_run_dir && access(folder.c_str(), W_OK | X_OK) != 0)
    throw UsageError("setting run.dump_gradients: {} cannot be written: {}", file.string(), system_reason(errno));
}

/// A new run must not write over a checkpoint.
void check_is_new(const Settings& settings) {
  if (!settings.run.dump_gradients.empty()) check_gradient_file(settings);
  if (checkpoint::has_complete_checkpoint(settings.run.dir))
    throw UsageError(
        "setting run.dir: {} already holds a checkpoint; go on with it by `mtp-resume --from {}`, or choose "
        "another folder",
        settings.run.dir.string(), settings.run.dir.string());
}

/// A checkpoint keeps what is needed of the source pair, and adapters as they are by now.
model::Pair open_pair(Settings settings, model::Parts parts, const std::optional<Resumption>& from) {
  if (from) settings.model.base_adapter.clear();
  if (!from || from->allows("model")) return model::Pair(settings, parts);
  return checkpoint::open_source(settings, parts, from->state.directory() / "source");
}

std::optional<data::DataFile> open_validation_data(const Settings& settings) {
  if (settings.validation.every_steps == 0) return std::nullopt;
  return data::DataFile(settings.data.validation);
}

}  // namespace

bool Resumption::allows(const char* change) const { return std::ranges::count(allowed_changes, change) > 0; }

Inputs Inputs::open(const Settings& settings, const Device& device, const parallel::Communicator& communicator,
                    const std::optional<Resumption>& from) {
  const parallel::LongerWait longer_wait(communicator);  // reading a pair takes its time, and not the same on all ranks
  const std::string arithmetic = parallel::arithmetic_of(communicator, device);
  std::optional<Inputs> inputs;
  parallel::agree(communicator, "the check of the pair and the data", [&] {
    inputs = Inputs(settings, device, arithmetic, communicator.rank(), communicator.size(), from);
  });
  if (from) inputs->ranking_ = checkpoint::ranking_of(inputs->settings_, inputs->first_step_, communicator);
  if (inputs->nothing_is_left()) return std::move(*inputs);
  inputs->fingerprints_ = checkpoint::take_fingerprints(settings, communicator);
  parallel::agree(communicator, "the check of the run's files", [&] { inputs->compare_fingerprints(from); });
  const std::int64_t memory = -communicator.max(-memory_of_rank(device, communicator), "the memory of a rank");
  std::int64_t trained = 0, validated = 0;  // samples with a label
  parallel::agree(communicator, "the check of the samples", [&] {
    trained = inputs->check_samples(inputs->data_);
    if (inputs->validation_data_) validated = inputs->check_samples(*inputs->validation_data_);
    inputs->check_memory(device, communicator, memory);
    inputs->check_export();
  });
  inputs->report_samples(inputs->data_, communicator.sum(trained, "the samples with a label"));
  if (inputs->validation_data_)
    inputs->report_samples(*inputs->validation_data_, communicator.sum(validated, "the samples with a label"));
  return std::move(*inputs);
}

Inputs Inputs::check(const Settings& settings) {
  const Device device(1);
  Inputs inputs(settings, device, device.name(), 0, static_cast<int>(settings.dist.expert_parallel), std::nullopt);
  inputs.ranks_ = 1;  // the smallest job has as many as above, and this process reads the samples of all
  inputs.report_samples(inputs.data_, inputs.check_samples(inputs.data_));
  if (const auto& data = inputs.validation_data_) inputs.report_samples(*data, inputs.check_samples(*data));
  inputs.check_export();
  return inputs;
}

Inputs::Inputs(const Settings& settings, const Device& device, std::string arithmetic, int rank, int ranks,
               const std::optional<Resumption>& from)
    : settings_(settings),
      arithmetic_(std::move(arithmetic)),
      rank_(rank),
      ranks_(ranks),
      first_step_(from ? from->state.step() : 0),
      is_resumed_(from.has_value()),
      data_(settings.data.train),
      validation_data_(open_validation_data(settings)),
      pair_(open_pair(settings, parts_for(data_, validation_data_), from)),
      ranking_(settings.checkpoint.keep_best) {
  check_fit(ranks_);
  check_data(data_);
  if (validation_data_) check_data(*validation_data_);
  fill_in_settings(device.kind());
  if (from)
    check_device(device, *from);
  else
    check_is_new(settings);
}

bool Inputs::nothing_is_left() const { return first_step_ >= steps_ || is_out_of_patience(settings_, ranking_); }

void Inputs::check_device(const Device& device, const Resumption& from) const {
  const std::string before = from.state.text("device");
  const bool is_of_an_older_program = before == device.name();  // which said no more of it
  if (before == arithmetic_ || is_of_an_older_program || from.allows("run.device")) return;
  throw UsageError(
      "setting run.device: the run was on another kind of device, {}; this is {}; --allow-change run.device if that "
      "is meant",
      before, arithmetic_);
}

void Inputs::check_fit(int ranks) const {
  if (settings_.drafter.head == Head::masked && !pair_.drafter_config.use_ordered_embeddings)
    throw UsageError("setting drafter.head: masked needs a drafter with centroids (use_ordered_embeddings)");
  micro_batches_of_rank(settings_, ranks);
  check_expert_parallel(settings_, pair_.base_config, ranks);
  const std::int64_t of_base = pair_.base_config.text.hidden_size, of_drafter = pair_.drafter_config.text.hidden_size;
  if (settings_.drafter.share_embedding_with_base && of_base != of_drafter)
    throw UsageError(
        "setting drafter.share_embedding_with_base: the base's token table has a width of {}, the drafter's {}",
        of_base, of_drafter);
}

void Inputs::check_data(const data::DataFile& file) const {
  const std::string name = file.path().string();
  const hf::TextConfig& base = pair_.base_config.text;
  file.check_base(pair_.base_directory, base.vocab_size);
  file.check_images(pair_.base_directory, vision_input(pair_.base_config));
  file.check_audio(pair_.base_directory, audio_input(pair_.base_config));
  if (file.pad_token_id() != base.pad_token_id)
    throw Error("{}: pad_token_id is {}, the base's is {}; prepare it with the base's tokenizer", name,
                file.pad_token_id(), base.pad_token_id);
  const std::int64_t longest = file.longest(settings_.data.max_length);
  const std::int64_t most = std::min(base.max_position_embeddings, pair_.drafter_config.text.max_position_embeddings);
  if (longest > most)
    throw UsageError(
        "setting data.max_length: {} has a sample of {} positions, the pair's max_position_embeddings is "
        "{}; cut samples to {} tokens",
        name, longest, most, most + 1);
}

void Inputs::fill_in_settings(Device::Kind device) {
  steps_ = sampler().total_steps(settings_.train.max_steps, settings_.train.max_epochs);
  schedule_ = Schedule::from(settings_, steps_);
  settings_.train.compute_dtype = compute_type(settings_, device);
  settings_.schedule.warmup_steps = schedule_.warmup_steps;
  settings_.schedule.decay_steps = schedule_.decay_steps;
  settings_.schedule.init_lr = schedule_.init_lr;
  settings_.schedule.min_lr = schedule_.min_lr;
}

void Inputs::check_memory(const Device& device, const parallel::Communicator& communicator,
                          std::int64_t available) const {
  const parallel::PretendedRanks::Job job{.ranks = ranks_,
                                          .ranks_per_node = communicator.ranks_on_this_node(),
                                          .overlaps = communicator.transport().overlaps()};
  Plan planned;
  try {
    planned = largest_plan(settings_, pair_, {data_, validation_data_}, device.kind(), job);
  } catch (const OutOfMemory& error) {
    if (communicator.is_first()) spdlog::warn("what memory the run needs is not known: {}", error.what());
    return;
  }
  if (planned.device.held <= available) return;
  if (communicator.is_first())
    for (const std::string& line : table(planned)) spdlog::info("{}", line);
  throw UsageError(
      "the {} has {:.1f} GB for each rank, and this run needs {:.1f} GB; use more ranks, train.recompute true, or less "
      "in a micro-batch; mtp-train --plan says what each way needs (docs/memory.md)",
      device.kind() == Device::Kind::cuda ? "GPU" : "machine", static_cast<double>(available) * 1e-9,
      static_cast<double>(planned.device.held) * 1e-9);
}

void Inputs::compare_fingerprints(const std::optional<Resumption>& from) {
  if (!from) return;
  const auto before = checkpoint::fingerprints_of(from->state);
  checkpoint::check_fingerprints(before, fingerprints_, from->allowed_changes);
  fingerprints_.insert(before.begin(), before.end());  // of what is gone
}

// A bad sample ends the run here, not after hours.
std::int64_t Inputs::check_samples(const data::DataFile& file) const {
  std::int64_t with_labels = 0;
  for (std::int64_t i = rank_; i < file.samples(); i += ranks_)
    with_labels += file.sample(i, settings_.data.max_length, pair_.base_config.special_ids()).labels() > 0;
  return with_labels;
}

void Inputs::check_export() const {
  if (settings_.checkpoint.export_at_end) checkpoint::check_export_target(settings_.run.dir / "hf", true);
}

void Inputs::report_samples(const data::DataFile& file, std::int64_t with_labels) const {
  if (with_labels == 0)
    throw AgreedError(fmt::format("{}: no sample has a target within data.max_length ({}); check the file",
                                  file.path().string(), settings_.data.max_length),
                      1);
  if (const std::int64_t without = file.samples() - with_labels; without > 0 && rank_ == 0)
    spdlog::warn("{}: {} of {} samples have no target within data.max_length ({}) and teach nothing",
                 file.path().string(), without, file.samples(), settings_.data.max_length);
}

data::Sampler Inputs::sampler() const {
  return data::Sampler({.samples = data_.samples(),
                        .global_batch = settings_.train.global_batch,
                        .shuffle = settings_.data.shuffle,
                        .seed = settings_.data.seed});
}

data::Loader::Options Inputs::reading() const {
  return {.micro_batch = settings_.train.micro_batch,
          .batch = {.max_length = settings_.data.max_length, .refused_ids = pair_.base_config.special_ids()},
          .prefetch = settings_.data.prefetch,
          .rank = rank_,
          .ranks = ranks_,
          .first_step = first_step_,
          .end_step = steps_};
}

}  // namespace mtp::train
