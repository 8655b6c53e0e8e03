#pragma once

#include <string>

#include "mtp/parallel/sharded_unit.h"

namespace mtp::checkpoint {

/// Calls visit(kind, unit, this rank's shard) for every kind of state of every trained unit.
template <typename Visit>
void for_each_shard(const parallel::Units& units, const Visit& visit) {
  for (const auto& unit : units) {
    if (!unit->trained()) continue;
    visit(std::string("parameters/"), *unit, unit->master());
    visit(std::string("exp_avg/"), *unit, unit->moment1());
    visit(std::string("exp_avg_sq/"), *unit, unit->moment2());
  }
}

}  // namespace mtp::checkpoint
