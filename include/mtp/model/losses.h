#pragma once

#include <vector>

namespace mtp::model {

/// Summed cross-entropies of a micro-batch.
struct LossSums {
  double base = 0;
  std::vector<double> rounds;  // [K]
};

}  // namespace mtp::model
