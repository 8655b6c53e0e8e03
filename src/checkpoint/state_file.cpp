#include "state_file.h"

#include <sstream>

#include "mtp/core/file.h"
#include "mtp/core/json.h"
#include "mtp/core/random.h"
#include "mtp/core/version.h"
#include "mtp/parallel/ordered_sum.h"
#include "rank_file.h"

namespace mtp::checkpoint {

namespace {

std::string settings_text(const Settings& settings) {
  std::ostringstream text;
  write_settings(text, settings);
  return text.str();
}

/// Random numbers are a function of seed, purpose, stream and counter: beside these there is no state. All that a run
/// draws is the order of an epoch's samples, as a whole.
Json random_state(const RunState& state) {
  return {{"generator", "Philox4x32-10"},
          {"purpose", static_cast<int>(Purpose::shuffle)},
          {"seed", state.run.settings.data.seed},
          {"stream", state.epoch},
          {"counter", 0}};
}

void write_attributes(hdf5::File& file, const RunState& state) {
  const RunDescription& run = state.run;
  file.set_attribute("format", state_format);
  file.set_attribute("version", state_version);
  file.set_attribute("step", state.step);
  file.set_attribute("epoch", state.epoch);
  file.set_attribute("position", state.position);
  file.set_attribute("lr", state.lr);
  file.set_attribute("random", random_state(state).dump());
  file.set_attribute("settings", settings_text(run.settings));
  file.set_attribute("fingerprints", Json(run.fingerprints).dump());
  file.set_attribute("group_size", parallel::group_size);
  file.set_attribute("ranks", std::int64_t{run.ranks});
  file.set_attribute("device", run.device);
  file.set_attribute("revision", version_text("mtp"));
}

}  // namespace

void write_state_file(const std::filesystem::path& path, const RunState& state,
                      const std::vector<StateTensor>& tensors) {
  auto [file, memory] = hdf5::File::create_in_memory(path.parent_path());  // as in Snapshot::write, for the same reason
  write_attributes(file, state);
  for (const StateTensor& tensor : tensors) file.create_virtual_dataset<float>(tensor.name, tensor.shape, tensor.parts);
  file.close();
  RandomAccessFile out = RandomAccessFile::create(path);
  read_between(memory, {}, [&](std::int64_t position, auto bytes) { out.write(position, bytes); });
}

}  // namespace mtp::checkpoint
