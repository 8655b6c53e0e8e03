#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "mtp/core/json.h"

namespace mtp::checkpoint {

/// Elements that one checksum covers: what a rank needs of another rank's shard is verified without reading all of it.
inline constexpr std::int64_t checksum_block = std::int64_t{1} << 22;

/// A part of a tensor, as a rank's file holds it in the dataset of the tensor's name, "KIND/NAME".
struct Part {
  int rank = 0;
  std::int64_t begin = 0, elements = 0;  // of the tensor, counted row by row
  std::int64_t position = 0;             // of the first element, in bytes of the file
  std::vector<std::string> checksums;    // of each `checksum_block` elements, the last of what is left
};

/// A file of which everything is covered by one checksum.
struct WholeFile {
  std::int64_t bytes = 0;
  std::string checksum;
};

/// A rank's file.
struct RankFile {
  std::int64_t bytes = 0;
  std::string layout_checksum;  // of everything but the elements: what HDF5 itself has in the file
};

/// What a checkpoint holds and the checksums of all of it: the file checksums.json.
struct Manifest {
  std::map<std::string, std::vector<Part>> tensors;  // by "KIND/NAME", in the order of their elements
  std::map<std::string, WholeFile> files;            // state.h5 and those of source/, by path in the checkpoint
  std::vector<RankFile> rank_files;

  int ranks() const { return static_cast<int>(rank_files.size()); }

  /// Adds what the next rank says of its file (`Snapshot::write`).
  void add_rank(const Json& rank_file);
  /// Adds a file of a checkpoint, under its path there.
  void add_file(const std::filesystem::path& checkpoint, const std::filesystem::path& path);

  void write(const std::filesystem::path& path) const;
  /// Throws Error where the file is damaged, as far as it shows without what it describes.
  static Manifest read(const std::filesystem::path& path);
};

/// What a rank says of its file: {"bytes", "layout", "parts": {"KIND/NAME": {"begin", "elements", "position",
/// "checksums"}, …}}.
Json to_json(const RankFile& file, const std::map<std::string, Part>& parts);

/// Throws Error unless a file of a checkpoint, "state.h5" or "source/…", is as the manifest says.
void verify_file(const std::filesystem::path& checkpoint, const std::string& path, const Manifest& manifest);

}  // namespace mtp::checkpoint
