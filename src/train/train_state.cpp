#include "mtp/train/train_state.h"

#include <optional>

#include "mtp/hf/safetensors.h"
#include "mtp/train/media.h"

namespace mtp::train {

namespace {

std::unique_ptr<parallel::ExpertRanks> expert_ranks_of(const Settings& settings, Device& device,
                                                       const parallel::Communicator& communicator) {
  const auto size = static_cast<int>(settings.dist.expert_parallel);
  return size > 1 ? std::make_unique<parallel::ExpertRanks>(device, communicator, size) : nullptr;
}

parallel::Sharding sharding_of(const Settings& settings, Device& device, const parallel::Communicator& communicator,
                               const parallel::ExpertRanks* experts) {
  return {.device = device,
          .communicator = communicator,
          .reduction = settings.dist.reduction,
          .micro_batches = settings.train.global_batch / settings.train.micro_batch,
          .compute_dtype = compute_type(settings, device.kind()) == ComputeType::bf16 ? DType::bf16 : DType::f32,
          .moment_dtype = settings.optimizer.moments == Moments::bf16 ? DType::bf16 : DType::f32,
          .moments_on_host = settings.optimizer.moments_on == MomentsPlace::host,
          .experts = experts};
}

}  // namespace

ComputeType compute_type(const Settings& settings, Device::Kind kind) {
  return settings.train.compute_dtype.value_or(kind == Device::Kind::cuda ? ComputeType::bf16 : ComputeType::fp32);
}

std::int64_t micro_batches_of_rank(const Settings& settings, int ranks) {
  const std::int64_t micro_batches = settings.train.global_batch / settings.train.micro_batch;
  if (micro_batches % ranks != 0)
    throw UsageError(
        "setting train.global_batch: {} micro-batches a step (global_batch / micro_batch) cannot be shared "
        "by {} ranks; the number of ranks must divide it",
        micro_batches, ranks);
  return micro_batches / ranks;
}

void check_expert_parallel(const Settings& settings, const hf::BaseConfig& base, int ranks) {
  const std::int64_t parts = settings.dist.expert_parallel;
  if (parts == 1) return;
  if (!base.text.has_experts())
    throw UsageError("setting dist.expert_parallel: {} has no experts; it must be 1", base.file);
  if (ranks % parts != 0)
    throw UsageError("setting dist.expert_parallel: {} does not divide the {} ranks of the job", parts, ranks);
  if (base.text.num_experts % parts != 0)
    throw UsageError("setting dist.expert_parallel: {} does not divide the base's {} experts", parts,
                     base.text.num_experts);
}

model::JointInput input_of(const data::MicroBatch& batch, const model::Joint& joint,
                           const parallel::Communicator& communicator) {
  model::JointInput input{.sequences = batch.sequences,
                          .ids = batch.ids,
                          .labels = batch.labels,
                          .images = image_input(batch.images),
                          .clips = clip_input(batch.clips)};
  if (joint.sees_images())
    input.some_have_images = communicator.max(input.images.has_value(), "the micro-batches with images") > 0;
  if (joint.hears())
    input.some_have_clips = communicator.max(input.clips.has_value(), "the micro-batches with sound") > 0;
  return input;
}

TrainState::TrainState(const Settings& settings, const model::Pair& pair, Device& device,
                       const parallel::Communicator& communicator)
    : expert_ranks_(expert_ranks_of(settings, device, communicator)),
      sharding_(sharding_of(settings, device, communicator, expert_ranks_.get())),
      parameters_(pair.table, sharding_),
      joint_(device, settings, pair),
      optimizer_(settings.optimizer, settings.run.seed, device, communicator, parameters_.units()) {}

std::vector<model::LossSums> TrainState::forward_backward(std::span<const data::MicroBatch> mine,
                                                          std::int64_t label_tokens) {
  std::vector<model::LossSums> losses;
  for (const data::MicroBatch& batch : mine) {
    sharding_.begin_micro_batches(std::ssize(losses) * sharding_.communicator.size());
    losses.push_back(joint_.forward_backward(input_of(batch, joint_, sharding_.communicator), label_tokens));
    sharding_.end_micro_batches();
  }
  return losses;
}

void TrainState::write_gradients(const std::filesystem::path& path) const {
  std::vector<const parallel::ShardedUnit*> trained;
  for (const auto& unit : parameters_.units())
    if (unit->trained()) trained.push_back(unit.get());

  std::optional<hf::SafetensorsWriter> writer;
  if (sharding_.communicator.is_first()) {
    std::vector<hf::TensorEntry> entries;
    for (const parallel::ShardedUnit* unit : trained)
      for (const auto& member : unit->layout().members()) entries.push_back({member.name, "F32", member.shape});
    writer.emplace(path, std::move(entries));
  }
  for (const parallel::ShardedUnit* unit : trained) {
    const Tensor whole = unit->gather(unit->gradient_sum());
    for (std::size_t i = 0; i < unit->layout().members().size(); ++i) {
      const Tensor member = unit->member(whole, i);
      if (!writer) continue;
      std::vector<float> values(static_cast<std::size_t>(member.elements()));
      sharding_.device.to_host(member, values);
      writer->append(std::as_bytes(std::span(values)));
    }
  }
  if (writer) writer->finish();
}

}  // namespace mtp::train
