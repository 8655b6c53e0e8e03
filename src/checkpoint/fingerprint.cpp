#include "mtp/checkpoint/fingerprint.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "mtp/core/checksum.h"
#include "mtp/core/error.h"
#include "mtp/core/json.h"
#include "mtp/core/progress.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t piece_bytes = std::uint64_t{64} << 20;  // what one rank reads at a time

using Files = std::map<std::string, fs::path>;

void add_model(const std::string& key, const fs::path& directory, Files& files) {
  static const std::set<std::string> endings = {".json", ".jinja", ".model", ".txt", ".safetensors"};
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, none))
    if (entry.is_regular_file() && endings.contains(entry.path().extension()))
      files[key + "/" + entry.path().filename().string()] = entry.path();
}

Files files_of(const Settings& settings) {
  Files files = {{"data.train", settings.data.train}};
  if (!settings.data.validation.empty()) files["data.validation"] = settings.data.validation;
  add_model("model.base", settings.model.base, files);
  add_model("model.drafter", settings.model.drafter, files);
  if (!settings.model.base_adapter.empty()) add_model("model.base_adapter", settings.model.base_adapter, files);
  return files;
}

/// The checksums of this rank's pieces, counted over all files, one a line.
std::string checksums_of_pieces(const Files& files, int rank, int ranks) {
  std::int64_t bytes = 0;
  for (const auto& [unused, path] : files) bytes += static_cast<std::int64_t>(fs::file_size(path));
  Progress progress("reading the run's files", bytes, "bytes");
  std::string lines;
  int piece = 0;
  for (const auto& [unused, path] : files)
    for (std::uint64_t begin = 0; begin <= fs::file_size(path); begin += piece_bytes, ++piece) {
      if (piece % ranks == rank) lines += checksum_of_file(path, begin, piece_bytes) + "\n";
      progress.add(static_cast<std::int64_t>(std::min(piece_bytes, fs::file_size(path) - begin)));
    }
  return lines;
}

std::string changed_name(const std::string& file) { return file.substr(0, file.find('.')); }

}  // namespace

Fingerprints take_fingerprints(const Settings& settings, const parallel::Communicator& communicator) {
  Files files;
  std::string mine;
  parallel::agree(communicator, "the reading of the run's files", [&] {
    files = files_of(settings);
    mine = checksums_of_pieces(files, communicator.rank(), communicator.size());
  });
  std::vector<std::istringstream> of_ranks;
  for (const std::string& lines : communicator.all_gather(mine, "the checksums of the run's files"))
    of_ranks.emplace_back(lines);
  Fingerprints fingerprints;
  std::size_t piece = 0;
  for (const auto& [name, path] : files) {
    Checksum whole;
    for (std::uint64_t begin = 0; begin <= fs::file_size(path); begin += piece_bytes, ++piece) {
      std::string checksum;
      std::getline(of_ranks[piece % of_ranks.size()], checksum);
      whole.add(std::as_bytes(std::span(checksum)));
    }
    fingerprints[name] = whole.text();
  }
  return fingerprints;
}

Fingerprints fingerprints_of(const State& state) {
  return parse_json(state.text("fingerprints"), state.directory().string() + ": fingerprints").get<Fingerprints>();
}

void check_fingerprints(const Fingerprints& before, const Fingerprints& now,
                        const std::vector<std::string>& allowed_changes) {
  for (const auto& [file, fingerprint] : now) {
    const auto found = before.find(file);
    if (found == before.end() || found->second == fingerprint) continue;
    const std::string name = changed_name(file);
    if (std::ranges::count(allowed_changes, name) == 0)
      throw UsageError(
          "setting {}: the file is not the one that the run began with; --allow-change {} if that is meant", file,
          name);
  }
}

}  // namespace mtp::checkpoint
