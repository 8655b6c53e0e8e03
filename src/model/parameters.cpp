#include "mtp/model/parameters.h"

#include <algorithm>

namespace mtp::model {

namespace {

/// The table's parameters, unit by unit, in the order in which units first appear.
std::vector<parallel::UnitLayout> layouts(const hf::TensorTable& table) {
  struct Draft {
    std::string name;
    bool trained;
    std::vector<parallel::UnitLayout::Member> members;
  };
  std::vector<Draft> drafts;
  for (const hf::TensorInfo& tensor : table.tensors()) {
    if (tensor.role == hf::Role::carried) continue;
    auto draft = std::find_if(drafts.begin(), drafts.end(), [&](const Draft& d) { return d.name == tensor.unit; });
    if (draft == drafts.end()) draft = drafts.insert(drafts.end(), {tensor.unit, tensor.role == hf::Role::trained, {}});
    draft->members.push_back({tensor.name, tensor.shape});
  }
  std::vector<parallel::UnitLayout> all;
  for (Draft& draft : drafts) all.emplace_back(draft.name, draft.trained, std::move(draft.members));
  return all;
}

}  // namespace

Parameters::Parameters(const hf::TensorTable& table, parallel::Sharding& sharding) {
  for (parallel::UnitLayout& layout : layouts(table)) {
    units_.push_back(std::make_unique<parallel::ShardedUnit>(std::move(layout), sharding));
    parallel::ShardedUnit& unit = *units_.back();
    for (std::size_t i = 0; i < unit.layout().members().size(); ++i)
      by_name_[unit.layout().members()[i].name] = {&unit, i, unit.layout().members()[i].shape};
  }
}

Parameter Parameters::get(const std::string& name) const {
  const auto found = by_name_.find(name);
  MTP_ASSERT(found != by_name_.end());
  return found->second;
}

std::vector<parallel::ShardedUnit*> Parameters::units_of(const std::string& prefix) const {
  std::vector<parallel::ShardedUnit*> found;
  for (const auto& unit : units_)
    if (unit->layout().name().starts_with(prefix)) found.push_back(unit.get());
  return found;
}

void Parameters::load(const hf::Pair& pair, Device& device) {
  for (const auto& unit : units_)
    for (const parallel::ShardedUnit::Piece& piece : unit->pieces()) {
      const auto [files, name] = pair.source_of(unit->layout().members()[piece.member].name);
      parallel::fill(device, unit->master(), piece,
                     [&, files = files, name = name](auto begin, auto values) { files->read(name, begin, values); });
    }
}

void Parameters::share_embedding_with_base(const hf::BaseConfig& config, Device& device) {
  const Parameter base = get("base." + config.prefix + "embed_tokens.weight"), drafter = get(drafter_embedding);
  MTP_ASSERT(base.shape == drafter.shape);
  const auto shard = [](const Parameter& p) { return static_cast<parallel::ShardedUnit*>(p.group)->master(); };
  device.copy(shard(base), shard(drafter));
}

}  // namespace mtp::model
