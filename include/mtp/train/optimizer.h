#pragma once

#include "mtp/core/settings.h"
#include "mtp/ops/optimizer.h"
#include "mtp/parallel/sharded_unit.h"

namespace mtp::train {

/// AdamW with clipping by the global norm over the trained units; each rank updates its shards. `seed` is that of the
/// rounding of moments in bf16.
class Optimizer {
 public:
  Optimizer(const Settings::Optimizer& settings, std::uint64_t seed, Device& device,
            const parallel::Communicator& communicator, const parallel::Units& units);

  /// The norm of the step's summed gradients, before clipping: over blocks of each unit that do not depend on the
  /// number of ranks, added in one order.
  double gradient_norm() const;

  /// One update with learning rate `lr` of 0-based `step`; scales the gradients down to `max_grad_norm`. Their sums are
  /// gone afterwards.
  void update(std::int64_t step, double lr, double gradient_norm);

 private:
  struct Unit {
    parallel::ShardedUnit* unit;
    std::uint64_t number;  // among all units of the pair
  };
  ops::AdamWShard shard(const Unit& of, const parallel::ShardedUnit::Run& run, std::int64_t step) const;

  Settings::Optimizer settings_;
  std::uint64_t seed_;
  Device& device_;
  const parallel::Communicator& communicator_;
  std::vector<Unit> units_;
};

}  // namespace mtp::train
