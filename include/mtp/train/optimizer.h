#pragma once

#include "mtp/core/settings.h"
#include "mtp/dist/sharded_unit.h"

namespace mtp::train {

/// AdamW with clipping by the global norm over the trained units; each rank updates its shards.
class Optimizer {
 public:
  Optimizer(const Settings::Optimizer& settings, Device& device, const dist::Communicator& communicator,
            const dist::Units& units);

  /// The norm of the step's summed gradients, before clipping: over blocks of each unit that do not depend on the
  /// number of ranks, added in one order.
  double gradient_norm() const;

  /// One update with learning rate `lr` of 0-based `step`; scales the gradients down to `max_grad_norm`.
  void update(std::int64_t step, double lr, double gradient_norm);

 private:
  Settings::Optimizer settings_;
  Device& device_;
  const dist::Communicator& communicator_;
  std::vector<dist::ShardedUnit*> units_;
};

}  // namespace mtp::train
