#pragma once

#include <map>
#include <string>
#include <vector>

#include "mtp/hf/pair.h"
#include "mtp/parallel/sharded_unit.h"

namespace mtp::model {

/// The pair's parameters: the units of the tensor table, sharded over the ranks, and each tensor by its name.
class Parameters {
 public:
  Parameters(const hf::TensorTable& table, parallel::Sharding& sharding);

  /// By full name, such as "drafter.pre_projection.weight".
  Parameter get(const std::string& name) const;
  /// Units whose name begins with `prefix`, in the table's order.
  std::vector<parallel::ShardedUnit*> units_of(const std::string& prefix) const;
  const parallel::Units& units() const { return units_; }

  /// Reads this rank's shards from the source pair.
  void load(const hf::Pair& pair, Device& device);
  /// Copies the base's token table into the drafter's (`drafter.share_embedding_with_base`); their shapes
  /// must be the same.
  void share_embedding_with_base(const hf::BaseConfig& base, Device& device);

 private:
  parallel::Units units_;
  std::map<std::string, Parameter> by_name_;
};

inline constexpr const char* drafter_embedding = "drafter.model.embed_tokens.weight";

}  // namespace mtp::model
