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

/// The name of a rank's file in a checkpoint.
std::string rank_file_name(int rank);

/// A part of a tensor, as a rank's file holds it in the dataset of the tensor's name, "KIND/NAME".
struct Part {
  int rank = 0;
  std::int64_t begin = 0, elements = 0;  // of the tensor, counted row by row
  std::vector<std::string> checksums;    // of each `checksum_block` elements, the last of what is left
};

/// A file of which everything is covered by one checksum.
struct WholeFile {
  std::int64_t bytes = 0;
  std::string checksum;
};

/// What a checkpoint holds and the checksums of all of it: the file checksums.json.
struct Manifest {
  std::map<std::string, std::vector<Part>> tensors;  // by "KIND/NAME", in the order of their elements
  std::map<std::string, WholeFile> files;            // state.h5 and those of source/, by path in the checkpoint
  std::vector<std::int64_t> rank_file_bytes;

  int ranks() const { return static_cast<int>(rank_file_bytes.size()); }

  /// Adds what a rank says of its file: [bytes, {"KIND/NAME": {"begin", "elements", "checksums"}, …}].
  void add_rank(const Json& rank_file);
  /// Adds a file of a checkpoint, under its path there.
  void add_file(const std::filesystem::path& checkpoint, const std::filesystem::path& path);

  void write(const std::filesystem::path& path) const;
  /// Throws Error where the file is damaged, as far as it shows without what it describes.
  static Manifest read(const std::filesystem::path& path);
};

/// Throws Error unless a file of a checkpoint, "state.h5" or "source/…", is as the manifest says.
void verify_file(const std::filesystem::path& checkpoint, const std::string& path, const Manifest& manifest);

}  // namespace mtp::checkpoint
