#pragma once

#include <functional>

#include <string>
#include <string_view>

#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"
#include "mtp/train/trainer.h"

namespace mtp::apps {

/// The body of a `main` that runs on the ranks of a job. What `work` returns is the exit code. An error ends with one
/// line: a fault that all ranks agree on is printed by rank 0 and all leave; any other is printed by the rank that has
/// it, which ends the whole job at once.
int run_parallel(parallel::Communicator& communicator, const std::function<int()>& work);

/// 0, or 75 for a run that a signal stopped with a checkpoint written: job scripts requeue on it.
int exit_code(train::Trainer::End end);

/// Threads of this rank: the setting, else OMP_NUM_THREADS, else this machine's cores shared by its ranks.
int threads_of(const Settings& settings, const parallel::Communicator& communicator);

/// This rank's device, by the setting `run.device`: ranks of a node take its GPUs in turn. Collective; throws
/// AgreedError where the ranks find GPUs on some nodes only, or none although that was asked for (`asked_by`).
Device device_of(const Settings& settings, const parallel::Communicator& communicator,
                 std::string_view asked_by = "setting run.device");

/// Rank 0 prints the program's version, revision, libraries and devices; returns the exit code.
int print_version(const parallel::Communicator& communicator, const std::string& program);

}  // namespace mtp::apps
