#pragma once

#include <cstdint>

#include "support/suite.h"

namespace mtp::bench {

/// A message of `bytes` from one rank to another and back: between neighbours inside the nodes, on all nodes at once,
/// and between the first ranks of nodes, one pair after another. Collective.
void add_links(Suite& suite, std::int64_t bytes);

}  // namespace mtp::bench
