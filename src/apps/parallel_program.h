#pragma once

#include <functional>

#include "mtp/dist/communicator.h"

namespace mtp::apps {

/// The body of a `main` that runs on the ranks of a job. What `work` returns is the exit code. An error ends with one
/// line: a fault that all ranks agree on is printed by rank 0 and all leave; any other is printed by the rank that has
/// it, which ends the whole job at once.
int run_parallel(dist::Communicator& communicator, const std::function<int()>& work);

}  // namespace mtp::apps
