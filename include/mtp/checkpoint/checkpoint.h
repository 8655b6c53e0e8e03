#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "mtp/checkpoint/state.h"
#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"
#include "mtp/parallel/sharded_unit.h"

namespace mtp::checkpoint {

// A checkpoint is a folder RUN/checkpoints/step_00000010 with
//
//   state.h5        attributes: format "mtp-checkpoint", version 3, step (optimizer steps done), epoch and
//                   position of the next sample, lr of the next step, random, settings, fingerprints, group_size,
//                   ranks, device, revision
//                   virtual datasets parameters/NAME, exp_avg/NAME, exp_avg_sq/NAME of what is trained: fp32, each
//                   tensor whole, under "base.…" and "drafter.…" Hugging Face names
//   rank_0000.h5 …  of every rank that wrote it, its part of each tensor, under the same names
//   source/         what of the source pair is not trained: see source.h
//   checksums.json  of all of it: see Manifest
//
// Writing is Saver's part, the folder's names directory.h's, reading State's.

/// A checkpoint's settings, and the run that it is in.
SavedRun saved_run(const State& state);

/// A checkpoint that is not what was written. All ranks throw it alike.
class DamagedCheckpoint : public AgreedError {
 public:
  explicit DamagedCheckpoint(const std::string& message) : AgreedError(message, 1) {}
};

/// The checkpoints that `--from` can mean, the one to try first at the front: all of a run, or the one that is named.
/// Of a run whose job is just ending, after its end. Decided by rank 0. Throws Error where there is none.
std::vector<std::filesystem::path> candidates(const std::filesystem::path& run_or_checkpoint,
                                              const parallel::Communicator& communicator);

/// Opens a checkpoint on every rank and verifies all of it but the tensors. Collective. Throws DamagedCheckpoint.
State open(const std::filesystem::path& checkpoint, const parallel::Communicator& communicator);

/// Reads this rank's shards of all parameters and moments, on any number of ranks, which verify every tensor together.
/// Frozen parameters are in the state in version 2 only: else `load_frozen` loads such a unit. Collective. Throws
/// DamagedCheckpoint.
using LoadFrozen = std::function<void(const parallel::ShardedUnit& unit)>;
void restore(const State& state, const parallel::Units& units, const LoadFrozen& load_frozen, Device& device,
             const parallel::Communicator& communicator);

/// Verifies every tensor without keeping it. Collective. Throws DamagedCheckpoint.
void verify(const State& state, const parallel::Communicator& communicator);

}  // namespace mtp::checkpoint
