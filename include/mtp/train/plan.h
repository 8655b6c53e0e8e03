#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/data/batch.h"
#include "mtp/model/pair.h"
#include "mtp/parallel/pretended_ranks.h"

namespace mtp::train {

/// What a run needs, found by running steps of it on a device that counts (Device::counting).
struct Plan {
  MemoryAccounts device;      // of each rank
  MemoryAccounts host;        // page-locked memory beside a GPU's
  std::int64_t received = 0;  // bytes of tensors that a rank receives from others in a step
  double flops = 0;           // of a step's products on all ranks, with what is recomputed
};

/// What every rank works on, again and again.
struct PlannedBatches {
  data::MicroBatch training;
  std::optional<data::MicroBatch> validation;  // forward only, before the first step and after each
};

/// Of two steps on `batches`: no later one of the same size takes more. The pair's parameters have no values
/// afterwards.
Plan plan(const Settings& settings, const model::Pair& pair, const PlannedBatches& batches, Device::Kind kind,
          const parallel::PretendedRanks::Job& job);

/// The files that a run reads.
struct PlannedData {
  const data::DataFile& training;
  const std::optional<data::DataFile>& validation;
};
/// Of the micro-batches of a run that need most: of its longest samples, or of those with the most of an
/// image or of sound.
Plan largest_plan(const Settings& settings, const model::Pair& pair, const PlannedData& data, Device::Kind kind,
                  const parallel::PretendedRanks::Job& job);

/// A micro-batch of text: `sequences` of `length` positions, different tokens, each with a label.
data::MicroBatch made_up_batch(const hf::BaseConfig& base, std::int64_t sequences, std::int64_t length);

/// The parts of a model that data need.
model::Parts parts_for(const data::DataFile& training, const std::optional<data::DataFile>& validation);

/// Lines of text: bytes by use, and the rest of the plan.
std::vector<std::string> table(const Plan& plan);

/// Bytes that a rank may hold: of a GPU its share of all of it; of the host its share of what is available, swap
/// included.
std::int64_t memory_of_rank(const Device& device, const parallel::Communicator& communicator);

}  // namespace mtp::train
