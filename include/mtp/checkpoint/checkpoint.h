#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "mtp/core/settings.h"
#include "mtp/dist/communicator.h"
#include "mtp/model/parameters.h"

namespace mtp::checkpoint {

// A checkpoint is a folder RUN/checkpoints/step_00000010 with
//
//   state.h5  attributes format "mtp-checkpoint", version 1, step (optimizer steps done), settings, group_size,
//   revision
//             parameters/NAME, exp_avg/NAME, exp_avg_sq/NAME: fp32, each tensor whole, under "base.…" and "drafter.…"
//             Hugging Face names; moments of trained tensors only
//   source/   what of the source pair is not trained: see source.h
//
// It is complete once it has its final name: it is written as .step_00000010.partial, synced and renamed.
// checkpoints/latest is a link to the newest complete one.

/// Writes the state after `step` optimizer steps, and removes all but the newest `checkpoint.keep`. Collective: rank 0
/// writes, one unit at a time.
void save(const Settings& settings, std::int64_t step, const model::Parameters& parameters, const Device& device,
          const dist::Communicator& communicator);

/// A checkpoint that a run goes on from.
struct Position {
  std::filesystem::path directory;
  std::int64_t step = 0;  // optimizer steps done
};

Position open(const std::filesystem::path& checkpoint);
/// Its settings, and the run that it is in.
SavedRun saved_run(const Position& position);

/// Reads this rank's shards of all parameters and moments; on any number of ranks.
void restore(const Position& position, const model::Parameters& parameters, Device& device);

}  // namespace mtp::checkpoint
