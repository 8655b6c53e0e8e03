#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/data/batch.h"
#include "mtp/model/joint.h"
#include "mtp/model/pair.h"
#include "mtp/model/parameters.h"
#include "mtp/parallel/sharded_unit.h"
#include "mtp/train/optimizer.h"

namespace mtp::train {

/// What a run computes in on a kind of device, if its settings leave it open.
ComputeType compute_type(const Settings& settings, Device::Kind kind);

/// How many of a step's micro-batches each rank takes. Throws UsageError where so many ranks cannot share them.
std::int64_t micro_batches_of_rank(const Settings& settings, int ranks);

/// Throws UsageError where so many ranks cannot keep the base's experts between them as dist.expert_parallel says.
void check_expert_parallel(const Settings& settings, const hf::BaseConfig& base, int ranks);

/// A micro-batch as `joint` takes it, which must outlive the result. Collective: each rank has one.
model::JointInput input_of(const data::MicroBatch& batch, const model::Joint& joint,
                           const parallel::Communicator& communicator);

/// A pair in training: this rank's shards of its parameters and moments, and the two halves of a step on them. All
/// functions are collective.
class TrainState {
 public:
  /// Weights are zero until they are loaded. The references must outlive it.
  TrainState(const Settings& settings, const model::Pair& pair, Device& device,
             const parallel::Communicator& communicator);

  model::Parameters& parameters() { return parameters_; }
  model::Joint& joint() { return joint_; }
  Optimizer& optimizer() { return optimizer_; }
  DType compute_dtype() const { return sharding_.compute_dtype; }

  /// The gradients of a step's loss, into the units' sums, and this rank's losses. `mine`: its micro-batches r, r + R,
  /// r + 2R, …; `label_tokens`: base labels of all ranks' micro-batches.
  std::vector<model::LossSums> forward_backward(std::span<const data::MicroBatch> mine, std::int64_t label_tokens);

  /// Rank 0 writes the step's summed gradients, not clipped, as a safetensors file.
  void write_gradients(const std::filesystem::path& path) const;

 private:
  std::unique_ptr<const parallel::ExpertRanks> expert_ranks_;  // of dist.expert_parallel above 1
  parallel::Sharding sharding_;
  model::Parameters parameters_;
  model::Joint joint_;
  Optimizer optimizer_;
};

}  // namespace mtp::train
