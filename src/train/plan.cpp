#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "mtp/train/trainer.h"

namespace mtp::train {

namespace {

void check_data(const Settings& settings, const hf::Pair& pair, const data::DataFile& data) {
  const std::string file = data.path().string();
  const hf::TextConfig& base = pair.base_config.text;
  data.check_vocab_size(base.vocab_size);
  if (data.pad_token_id() != base.pad_token_id)
    throw Error("{}: pad_token_id is {}, the base's is {}; prepare it with the base's tokenizer", file,
                data.pad_token_id(), base.pad_token_id);
  const std::int64_t longest = data.longest(settings.data.max_length);
  const std::int64_t most = std::min(base.max_position_embeddings, pair.drafter_config.text.max_position_embeddings);
  if (longest > most)
    throw UsageError(
        "setting data.max_length: {} has a sample of {} positions, the pair's max_position_embeddings is "
        "{}; cut samples to {} tokens",
        file, longest, most, most + 1);
}

/// The folder may be the run directory, which is not there yet.
void check_gradient_file(const Settings& settings) {
  namespace fs = std::filesystem;
  const fs::path file = fs::absolute(settings.run.dump_gradients).lexically_normal(), folder = file.parent_path();
  if (fs::is_directory(file))
    throw UsageError("setting run.dump_gradients: {} is a folder, name a file", file.string());
  const bool is_in_run_dir = folder == fs::absolute(settings.run.dir / "").lexically_normal().parent_path();
  if (!is_in_run_dir && access(folder.c_str(), W_OK | X_OK) != 0)
    throw UsageError("setting run.dump_gradients: {} cannot be written: {}", file.string(), system_reason(errno));
}

void check_settings(const Settings& settings, const hf::Pair& pair, std::int64_t micro_batches, int ranks) {
  if (settings.drafter.head == Head::masked && !pair.drafter_config.use_ordered_embeddings)
    throw UsageError("setting drafter.head: masked needs a drafter with centroids (use_ordered_embeddings)");
  if (micro_batches % ranks != 0)
    throw UsageError(
        "setting train.global_batch: {} micro-batches a step (global_batch / micro_batch) cannot be shared "
        "by {} ranks; the number of ranks must divide it",
        micro_batches, ranks);
  const std::int64_t of_base = pair.base_config.text.hidden_size, of_drafter = pair.drafter_config.text.hidden_size;
  if (settings.drafter.share_embedding_with_base && of_base != of_drafter)
    throw UsageError(
        "setting drafter.share_embedding_with_base: the base's token table has a width of {}, the drafter's {}",
        of_base, of_drafter);
}

}  // namespace

void check_is_new(const Settings& settings) {
  if (!settings.run.dump_gradients.empty()) check_gradient_file(settings);
  if (checkpoint::has_complete_checkpoint(settings.run.dir))
    throw UsageError(
        "setting run.dir: {} already holds a checkpoint; go on with it by `mtp-resume --from {}`, or choose "
        "another folder",
        settings.run.dir.string(), settings.run.dir.string());
}

Plan make_plan(const Settings& settings, const hf::Pair& pair, const data::DataFile& data,
               const data::DataFile* validation, Device::Kind device, int ranks) {
  Plan plan{.settings = settings,
            .steps = 0,
            .micro_batches = settings.train.global_batch / settings.train.micro_batch,
            .schedule = {}};
  check_settings(settings, pair, plan.micro_batches, ranks);
  check_data(settings, pair, data);
  if (validation != nullptr) check_data(settings, pair, *validation);
  const data::Sampler sampler({.samples = data.samples(), .global_batch = settings.train.global_batch});
  plan.steps = sampler.total_steps(settings.train.max_steps, settings.train.max_epochs);
  plan.schedule = Schedule::from(settings, plan.steps);
  // What the settings left open is fixed from here on: a resumed run reads it back.
  plan.settings.train.compute_dtype =
      settings.train.compute_dtype.value_or(device == Device::Kind::cuda ? ComputeType::bf16 : ComputeType::fp32);
  plan.settings.schedule.warmup_steps = plan.schedule.warmup_steps;
  plan.settings.schedule.decay_steps = plan.schedule.decay_steps;
  plan.settings.schedule.init_lr = plan.schedule.init_lr;
  plan.settings.schedule.min_lr = plan.schedule.min_lr;
  return plan;
}

}  // namespace mtp::train
