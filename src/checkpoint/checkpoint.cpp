#include "mtp/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <vector>

#include "mtp/core/hdf5.h"
#include "mtp/core/version.h"
#include "mtp/dist/ordered_sum.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

std::string step_name(std::int64_t step) { return fmt::format("step_{:08}", step); }

/// Waits until a file, or a folder's list of names, is on the disk.
void sync(const fs::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool done = file >= 0 && fsync(file) == 0;
  if (file >= 0) close(file);
  if (!done) throw Error("{}: could not be written to the disk", path.string());
}

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
  sync(checkpoints);
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
    sync(partial / "state.h5");
    link_files(settings.run.dir / "source", partial / "source");
    sync(partial);
    fs::remove_all(checkpoints / name);
    fs::rename(partial, checkpoints / name);
    point_latest_at(checkpoints, name.string());
    remove_old(checkpoints, settings.checkpoint.keep);
  }
  communicator.barrier("the end of a checkpoint");
}

}  // namespace mtp::checkpoint
