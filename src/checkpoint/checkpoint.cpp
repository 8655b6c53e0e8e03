#include "mtp/checkpoint/checkpoint.h"

#include <algorithm>
#include <optional>
#include <sstream>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/core/file.h"
#include "mtp/core/hdf5.h"
#include "mtp/core/version.h"
#include "mtp/dist/ordered_sum.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

std::string step_name(std::int64_t step) { return fmt::format("step_{:08}", step); }

/// The same files under a second name; copied where the file system has no hard links.
void link_files(const fs::path& from, const fs::path& to) {
  std::error_code no_links;
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::create_hard_links, no_links);
  if (no_links) fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
}

void write_attributes(hdf5::File& file, const Settings& settings, std::int64_t step) {
  std::ostringstream text;
  write_settings(text, settings);
  file.set_attribute("format", "mtp-checkpoint");
  file.set_attribute("version", std::int64_t{1});
  file.set_attribute("step", step);
  file.set_attribute("settings", text.str());
  file.set_attribute("group_size", dist::group_size);
  file.set_attribute("revision", version_text("mtp"));
}

/// One kind of state of a unit; `file` on rank 0 only. Collective.
void write_unit(std::optional<hdf5::File>& file, const std::string& kind, const dist::ShardedUnit& unit,
                const Tensor& shard, const Device& device) {
  const Tensor whole = unit.gather(shard);
  if (!file) return;
  for (std::size_t i = 0; i < unit.layout().members().size(); ++i) {
    const dist::UnitLayout::Member& member = unit.layout().members()[i];
    std::vector<float> values(member.elements());
    device.to_host(unit.member(whole, i), values);
    file->create_dataset<float>(kind + "/" + member.name, member.shape).write(0, std::span<const float>(values));
  }
}

/// Moves the link `latest` in one step.
void point_latest_at(const fs::path& checkpoints, const std::string& name) {
  const fs::path link = checkpoints / "latest", fresh = checkpoints / ".latest.partial";
  fs::remove(fresh);
  fs::create_directory_symlink(name, fresh);
  fs::rename(fresh, link);
  sync_to_disk(checkpoints);
}

void remove_old(const fs::path& checkpoints, std::int64_t keep) {
  std::vector<fs::path> complete;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints))
    if (entry.path().filename().string().starts_with("step_")) complete.push_back(entry.path());
  std::sort(complete.begin(), complete.end());
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < complete.size(); ++i) fs::remove_all(complete[i]);
}

}  // namespace

void save(const Settings& settings, std::int64_t step, const model::Parameters& parameters, const Device& device,
          const dist::Communicator& communicator) {
  const dist::Patience patience(communicator);  // rank 0 writes between the gathers
  const fs::path checkpoints = settings.run.dir / "checkpoints", name = step_name(step);
  const fs::path partial = checkpoints / ("." + name.string() + ".partial");
  std::optional<hdf5::File> file;
  if (communicator.is_first()) {
    fs::remove_all(partial);
    fs::create_directories(partial);
    file = hdf5::File::create(partial / "state.h5");
    write_attributes(*file, settings, step);
  }
  for (const auto& unit : parameters.units()) {
    write_unit(file, "parameters", *unit, unit->master(), device);
    if (!unit->trained()) continue;
    write_unit(file, "exp_avg", *unit, unit->moment1(), device);
    write_unit(file, "exp_avg_sq", *unit, unit->moment2(), device);
  }
  if (file) {
    file->close();
    sync_to_disk(partial / "state.h5");
    link_files(settings.run.dir / "source", partial / "source");
    sync_to_disk(partial);
    fs::remove_all(checkpoints / name);
    fs::rename(partial, checkpoints / name);
    point_latest_at(checkpoints, name.string());
    remove_old(checkpoints, settings.checkpoint.keep);
  }
  communicator.barrier("the end of a checkpoint");
}

namespace {

hdf5::File open_state(const fs::path& checkpoint) {
  const fs::path path = checkpoint / "state.h5";
  hdf5::File file = hdf5::File::open(path);
  if (!file.has_attribute("format") || file.attribute<std::string>("format") != "mtp-checkpoint")
    throw Error("{}: is no checkpoint of this program", path.string());
  const auto version = file.attribute<std::int64_t>("version");
  if (version != 1) throw Error("{}: has version {}, this program reads version 1", path.string(), version);
  const auto group_size = file.attribute<std::int64_t>("group_size");
  if (group_size != dist::group_size)
    throw Error("{}: micro-batches were added in groups of {}, this program adds {}; it would not go on alike",
                path.string(), group_size, dist::group_size);
  return file;
}

/// Elements begin … of a tensor. Datasets are read by rows: those that hold the elements, then cut.
std::vector<float> read_elements(const hdf5::Dataset& dataset, std::int64_t begin, std::int64_t elements) {
  const std::int64_t width = dataset.elements() / dataset.shape()[0];
  const std::int64_t first = begin / width, last = (begin + elements + width - 1) / width;
  std::vector<float> rows((last - first) * width);
  dataset.read(first, std::span(rows));
  const auto from = rows.begin() + (begin - first * width);
  return {from, from + elements};
}

void restore_shard(const hdf5::File& state, const std::string& kind, const dist::ShardedUnit& unit, const Tensor& shard,
                   Device& device) {
  for (const dist::ShardedUnit::Piece& piece : unit.pieces()) {
    const dist::UnitLayout::Member& member = unit.layout().members()[piece.member];
    const hdf5::Dataset dataset = state.dataset(kind + "/" + member.name);
    if (dataset.shape() != member.shape)
      throw Error("checkpoint: {}/{} has shape {}, the pair needs {}", kind, member.name, to_string(dataset.shape()),
                  to_string(member.shape));
    const std::vector<float> values = read_elements(dataset, piece.begin, piece.elements);
    device.copy(device.from_host(values, {piece.elements}), shard.slice(piece.position, {piece.elements}));
  }
}

}  // namespace

Position open(const fs::path& checkpoint) {
  return {checkpoint, open_state(checkpoint).attribute<std::int64_t>("step")};
}

SavedRun saved_run(const Position& position) {
  const fs::path run = fs::canonical(position.directory).parent_path().parent_path();  // RUN/checkpoints/step_…
  return {open_state(position.directory).attribute<std::string>("settings"), run};
}

void restore(const Position& position, const model::Parameters& parameters, Device& device) {
  const hdf5::File state = open_state(position.directory);
  for (const auto& unit : parameters.units()) {
    restore_shard(state, "parameters", *unit, unit->master(), device);
    if (!unit->trained()) continue;
    restore_shard(state, "exp_avg", *unit, unit->moment1(), device);
    restore_shard(state, "exp_avg_sq", *unit, unit->moment2(), device);
  }
}

}  // namespace mtp::checkpoint
