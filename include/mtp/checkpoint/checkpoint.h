#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "mtp/core/settings.h"
#include "mtp/dist/communicator.h"
#include "mtp/hf/pair.h"
#include "mtp/model/parameters.h"

namespace mtp::checkpoint {

// A checkpoint is a folder RUN/checkpoints/step_00000010 with
//
//   state.h5  attributes format "mtp-checkpoint", version 1, step (optimizer steps done), settings, group_size,
//   revision
//             parameters/NAME, exp_avg/NAME, exp_avg_sq/NAME: fp32, each tensor whole, under "base.…" and "drafter.…"
//             Hugging Face names; moments of trained tensors only
//   source/   what of the source pair is not trained: see store_source
//
// It is complete once it has its final name: it is written as .step_00000010.partial, synced and renamed.
// checkpoints/latest is a link to the newest complete one.

/// Keeps in RUN/source/{base,drafter} what an export needs of the source pair beside parameters: its configuration and
/// tokenizer files, its tensors' names and types (tensors.json) and the carried tensors (carried.safetensors). Done
/// once a run; checkpoints share the files.
void store_source(const hf::Pair& pair, const std::filesystem::path& run_dir);

/// Writes the state after `step` optimizer steps, and removes all but the newest `checkpoint.keep`. Collective: rank 0
/// writes, one unit at a time.
void save(const Settings& settings, std::int64_t step, const model::Parameters& parameters, const Device& device,
          const dist::Communicator& communicator);

}  // namespace mtp::checkpoint
