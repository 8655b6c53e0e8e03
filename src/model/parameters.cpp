#include "mtp/model/parameters.h"

#include <algorithm>

#include "mtp/core/progress.h"
#include "mtp/ops/elementwise.h"

namespace mtp::model {

namespace {

/// Parameters that are gathered together, in the order of the table.
struct Group {
  std::string name;
  std::vector<const TensorInfo*> tensors;
};

/// In the order in which units first appear.
std::vector<Group> groups_of(const TensorTable& table) {
  std::vector<Group> groups;
  for (const TensorInfo& tensor : table.tensors()) {
    if (tensor.role == Role::carried) continue;
    auto group = std::ranges::find(groups, tensor.unit, &Group::name);
    if (group == groups.end()) group = groups.insert(groups.end(), {tensor.unit, {}});
    group->tensors.push_back(&tensor);
  }
  return groups;
}

/// The type of the source's tensors, if they have one that is computed with.
DType source_dtype(const Group& group) {
  const bool is_bf16 = std::ranges::all_of(group.tensors, [](const TensorInfo* t) { return t->dtype == "BF16"; });
  return is_bf16 ? DType::bf16 : DType::f32;
}

parallel::UnitLayout layout_of(const Group& group, const parallel::Sharding& sharding, std::optional<DType> frozen) {
  std::vector<parallel::UnitLayout::Member> members;
  for (const TensorInfo* tensor : group.tensors) members.push_back({tensor->name, tensor->shape});
  const bool trained = group.tensors.front()->role == Role::trained, of_experts = group.tensors.front()->is_by_expert;
  const int parts = sharding.experts != nullptr ? sharding.experts->group().size() : 1;
  return {group.name, trained, std::move(members), trained ? DType::f32 : frozen.value_or(source_dtype(group)),
          of_experts ? parts : 0};
}

}  // namespace

Parameters::Parameters(const TensorTable& table, parallel::Sharding& sharding, std::optional<DType> frozen) {
  for (const Group& group : groups_of(table)) {
    units_.push_back(std::make_unique<parallel::ShardedUnit>(layout_of(group, sharding, frozen), sharding));
    for (std::size_t i = 0; i < group.tensors.size(); ++i) group.tensors[i]->parameter.bind(*units_.back(), i);
  }
}

parallel::ShardedUnit& Parameters::unit_of(const Parameter& parameter) const {
  const auto found = std::ranges::find_if(units_, [&](const auto& unit) { return unit.get() == &parameter.group(); });
  MTP_ASSERT(found != units_.end());
  return **found;
}

void Parameters::load(const Pair& pair, Device& device) {
  std::int64_t total = 0;
  for (const auto& unit : units_) total += unit->master().elements();
  Progress progress("loading the pair", total, "parameters");
  for (const auto& unit : units_) {
    load(pair, device, *unit);
    progress.add(unit->master().elements());
  }
}

void Parameters::load(const Pair& pair, Device& device, const parallel::ShardedUnit& unit) {
  for (const parallel::ShardedUnit::Piece& piece : unit.pieces()) {
    const std::string& name = unit.layout().members()[piece.member].name;
    parallel::fill(device, unit.master(), piece, [&](auto begin, auto values) { pair.read(name, begin, values); });
  }
}

void Parameters::share_embedding_with_base(const Pair& pair, Device& device) {
  const Parameter &base = pair.base.embedding(), &drafter = pair.drafter.embedding();
  MTP_ASSERT(base.shape() == drafter.shape());
  ops::convert(device, unit_of(base).master(), unit_of(drafter).master());
}

}  // namespace mtp::model
