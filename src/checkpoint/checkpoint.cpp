#include "mtp/checkpoint/checkpoint.h"

#include <functional>
#include <optional>
#include <sstream>

#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/run_directory.h"
#include "mtp/core/progress.h"
#include "state_kinds.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

/// Runs `work` on every rank; where it fails on any, all throw the first one's error. What cannot be read on one rank
/// counts before what is damaged on another: a checkpoint is given up only where nothing else is in doubt.
void agree_on_damage(const parallel::Communicator& communicator, const std::function<void()>& work) {
  std::string damage;
  const std::string failure = parallel::first_failure(communicator, "the soundness of a checkpoint", [&] {
    try {
      work();
    } catch (const DamageError& error) {
      damage = error.what();
    }
  });
  if (!failure.empty()) throw AgreedError(failure, 1);
  for (const std::string& found : communicator.all_gather(damage, "the soundness of a checkpoint"))
    if (!found.empty()) throw DamagedCheckpoint(found);
}

void read(const State& state, const std::string& name, const Shape& shape, std::int64_t begin,
          std::span<float> values) {
  if (const Shape saved = state.shape(name); saved != shape)
    throw Error("{}: {} has shape {}, the pair needs {}", state.directory().string(), name, to_string(saved),
                to_string(shape));
  state.read(name, begin, values);
}

void restore_shard(const State& state, const std::string& kind, const parallel::ShardedUnit& unit, const Tensor& shard,
                   Device& device) {
  for (const parallel::ShardedUnit::Piece& piece : unit.pieces()) {
    const parallel::UnitLayout::Member& member = unit.layout().members()[piece.member];
    parallel::fill(device, shard, piece,
                   [&](auto begin, auto values) { read(state, kind + member.name, member.shape, begin, values); });
  }
}

}  // namespace

SavedRun saved_run(const State& state) {
  const fs::path run = fs::canonical(state.directory()).parent_path().parent_path();  // RUN/checkpoints/step_…
  return {state.text("settings"), run};
}

std::vector<fs::path> candidates(const fs::path& from, const parallel::Communicator& communicator) {
  std::string lines;
  const std::string failure = parallel::first_failure(communicator, "the choice of a checkpoint", [&] {
    if (!communicator.is_first()) return;
    if (fs::is_directory(from)) wait_for_other_job(from);
    for (const fs::path& path : named_checkpoints(from)) lines += path.string() + "\n";
  });
  if (!failure.empty()) throw AgreedError(failure, 1);
  std::istringstream text(communicator.all_gather(lines, "the choice of a checkpoint").front());
  std::vector<fs::path> paths;
  for (std::string line; std::getline(text, line);) paths.emplace_back(line);
  return paths;
}

State open(const fs::path& checkpoint, const parallel::Communicator& communicator) {
  std::optional<State> state;
  agree_on_damage(communicator, [&] {
    state.emplace(checkpoint);
    state->verify_files(communicator.rank(), communicator.size());
  });
  return std::move(*state);
}

void restore(const State& state, const parallel::Units& units, const LoadFrozen& load_frozen, Device& device,
             const parallel::Communicator& communicator) {
  std::int64_t elements = 0;
  for_each_shard(units, [&](const std::string&, const parallel::ShardedUnit&, const Tensor& shard) {
    elements += shard.elements();
  });
  Progress progress("loading " + state.directory().string(), elements, "parameters and moments");
  agree_on_damage(communicator, [&] {
    for (const auto& unit : units) {
      if (unit->trained()) continue;
      if (state.has("parameters/" + unit->layout().members().front().name))
        restore_shard(state, "parameters/", *unit, unit->master(), device);
      else
        load_frozen(*unit);
    }
    for_each_shard(units, [&](const std::string& kind, const parallel::ShardedUnit& unit, const Tensor& shard) {
      restore_shard(state, kind, unit, shard, device);
      progress.add(shard.elements());
    });
  });
}

void verify(const State& state, const parallel::Communicator& communicator) {
  agree_on_damage(communicator, [&] { state.verify_tensors(communicator.rank(), communicator.size()); });
}

}  // namespace mtp::checkpoint
