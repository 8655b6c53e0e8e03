#pragma once

#include <string>
#include <vector>

#include "mtp/parallel/communicator.h"

namespace mtp::bench {

/// Adds to the context of Google Benchmark's output what the numbers were measured with: see bench/README.md.
/// Collective.
void add_context(const parallel::Communicator& communicator, const std::string& program, int threads,
                 const std::string& device);

/// The host of each rank. Collective.
std::vector<std::string> hosts(const parallel::Communicator& communicator);

}  // namespace mtp::bench
