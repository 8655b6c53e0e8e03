#pragma once

#include <cstdint>

#include "support/suite.h"

namespace mtp::bench {

/// The largest collective for whose tensors every rank has memory. Collective.
std::int64_t most_bytes(const parallel::Communicator& communicator);

void add_barrier(Suite& suite);

/// Gather, exchange, ordered and fast reduction of `bytes`, those of the shards of all ranks together: what NCCL-tests
/// call size. The reductions are left out where a shard would be smaller than a block.
void add_collectives(Suite& suite, std::int64_t bytes);

}  // namespace mtp::bench
