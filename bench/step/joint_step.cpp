#include "joint_step.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <string>

#include "mtp/core/random.h"
#include "mtp/train/plan.h"
#include "support/context.h"
#include "support/timing.h"

namespace mtp::bench {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

bool is_first_of_node(const parallel::Communicator& communicator) {
  const std::vector<std::string> host_of_rank = hosts(communicator);
  return std::ranges::find(host_of_rank, host_of_rank[communicator.rank()]) - host_of_rank.begin() ==
         communicator.rank();
}

/// Counted before the pair's parameters have their values.
double flops_of(Settings settings, const model::Pair& pair, std::int64_t length, int ranks) {
  settings.train.recompute = false;
  settings.train.global_batch /= ranks;
  const data::MicroBatch batch = train::made_up_batch(pair.base_config, settings.train.micro_batch, length);
  return train::plan(settings, pair, {batch, std::nullopt}, Device::Kind::cpu, {.ranks = 1}).flops;
}

}  // namespace

PairOnDisk::PairOnDisk(const parallel::Communicator& communicator, const hf::Preset& shape,
                       const std::filesystem::path& directory)
    : is_writer_(is_first_of_node(communicator)) {
  // Named after the first rank's process: jobs that share a disk do not meet.
  const std::int64_t job = communicator.max(communicator.is_first() ? getpid() : 0, "the name of the job");
  path_ = directory / fmt::format("mtp-bench-step-{}", job);
  parallel::agree(communicator, "the writing of a random pair", [&] {
    if (is_writer_) model::make_pair(shape, 0, path_);
  });
}

PairOnDisk::~PairOnDisk() {
  std::error_code ignored;  // what is left is a temporary directory
  if (is_writer_) std::filesystem::remove_all(path_, ignored);
}

JointStep::JointStep(const parallel::Communicator& communicator, Device& device, const Settings& settings,
                     std::int64_t length)
    : communicator_(communicator),
      settings_(settings),
      length_(length),
      pair_(settings),
      flops_(flops_of(settings, pair_, length, communicator.size())),
      sharding_{device,
                communicator,
                settings.dist.reduction,
                settings.train.global_batch,
                0,
                settings.train.compute_dtype == ComputeType::bf16 ? DType::bf16 : DType::f32},
      parameters_(pair_.table, sharding_),
      joint_(device, settings_, pair_),
      optimizer_(settings_.optimizer, settings_.run.seed, device, communicator, parameters_.units()),
      sequences_({length}) {
  parameters_.load(pair_, device);
  const auto vocabulary = static_cast<std::uint64_t>(pair_.base_config.text.vocab_size);
  const std::uint64_t first_id = 3;  // after pad, end and begin
  for (std::int64_t i = 0; i < micro_batches(); ++i) {
    const Random random(0, Purpose::shuffle, static_cast<std::uint64_t>(i * communicator.size() + communicator.rank()));
    std::vector<std::int64_t>& tokens = tokens_.emplace_back();
    for (std::int64_t t = 0; t <= length; ++t)
      tokens.push_back(
          static_cast<std::int64_t>(first_id + random.below(static_cast<std::uint64_t>(t), vocabulary - first_id)));
  }
}

double JointStep::run(double lr) {
  const auto start = Clock::now();
  const double waited_before = communicator_.waited();
  std::vector<double> losses;
  for (std::int64_t i = 0; i < micro_batches(); ++i) {
    sharding_.begin_micro_batches(i * communicator_.size());
    const std::span<const std::int64_t> all = tokens_[i];
    losses.push_back(joint_.forward_backward({sequences_, all.first(length_), all.last(length_)}, tokens()).base);
    sharding_.end_micro_batches();
  }
  end_phase();
  const double waited_in_passes = communicator_.waited() - waited_before;
  phases_.compute += seconds_since(start) - waited_in_passes;

  const auto update_start = Clock::now();
  optimizer_.update(step_++, lr, optimizer_.gradient_norm());
  end_phase();
  const double waited = communicator_.waited() - waited_before;
  phases_.optimizer += seconds_since(update_start) - (waited - waited_in_passes);
  phases_.communication += waited;

  double sum = 0;
  for (const double loss : communicator_.all_gather(losses, "the losses")) sum += loss;
  return sum / static_cast<double>(tokens());
}

void JointStep::run_by_phases(double lr) {
  wait_for(sharding_.device);
  reset();
  waits_between_phases_ = true;
  run(lr);
  waits_between_phases_ = false;
}

void JointStep::end_phase() {
  if (waits_between_phases_) wait_for(sharding_.device);
}

}  // namespace mtp::bench
