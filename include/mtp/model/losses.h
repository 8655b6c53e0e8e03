#pragma once

#include <cstdint>
#include <vector>

namespace mtp::model {

/// How many rows each expert of each layer was chosen by.   [layers][E], without layers where there are no experts
using ExpertLoads = std::vector<std::vector<std::int64_t>>;

/// Summed cross-entropies of a micro-batch.
struct LossSums {
  double base = 0;
  std::vector<double> rounds;  // [K]
  ExpertLoads expert_loads = {};
};

}  // namespace mtp::model
