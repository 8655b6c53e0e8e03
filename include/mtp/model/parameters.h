#pragma once

#include <optional>
#include <vector>

#include "mtp/model/pair.h"
#include "mtp/parallel/sharded_unit.h"

namespace mtp::model {

/// The values of a pair's parameters: the units of its tensor table, sharded over the ranks. From then on the pair's
/// models compute with them.
class Parameters {
 public:
  /// Weights are zero until they are loaded. Trained ones are kept in fp32, frozen ones in their source's type, or in
  /// `frozen` if it is given. The sharding must outlive it.
  Parameters(const TensorTable& table, parallel::Sharding& sharding, std::optional<DType> frozen = std::nullopt);

  const parallel::Units& units() const { return units_; }
  /// The unit that holds a parameter of the pair.
  parallel::ShardedUnit& unit_of(const Parameter& parameter) const;

  /// Reads this rank's shards from the source pair.
  void load(const Pair& pair, Device& device);
  /// Those of one unit.
  void load(const Pair& pair, Device& device, const parallel::ShardedUnit& unit);
  /// Copies the base's token table into the drafter's (`drafter.share_embedding_with_base`); their shapes
  /// must be the same.
  void share_embedding_with_base(const Pair& pair, Device& device);

 private:
  parallel::Units units_;
};

}  // namespace mtp::model
