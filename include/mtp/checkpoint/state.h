#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "mtp/checkpoint/manifest.h"
#include "mtp/core/file.h"
#include "mtp/core/hdf5.h"
#include "mtp/tensor/tensor.h"

namespace mtp::checkpoint {

/// A checkpoint for reading: everything is compared with its checksum before it is returned, and what does not agree,
/// or is not there, is a DamageError that names the file. What cannot be read, or is of another version, is another
/// Error. Tensors are named "KIND/NAME" with the kinds parameters, exp_avg and exp_avg_sq and full Hugging Face names
/// ("parameters/base.model.norm.weight"); elements are counted row by row.
class State {
 public:
  /// Opens and verifies checksums.json and state.h5, but not the tensors. Throws Error where this program cannot go on
  /// with it too.
  explicit State(std::filesystem::path checkpoint);

  const std::filesystem::path& directory() const { return directory_; }
  const Manifest& manifest() const { return manifest_; }
  std::int64_t step() const { return step_; }  // optimizer steps done
  /// Attributes of state.h5.
  std::int64_t number(const std::string& attribute) const { return file_.attribute<std::int64_t>(attribute); }
  std::string text(const std::string& attribute) const { return file_.attribute<std::string>(attribute); }

  bool has(const std::string& name) const { return manifest_.tensors.contains(name); }
  Shape shape(const std::string& name) const { return file_.dataset(name).shape(); }

  /// Elements begin … of a tensor, whoever's file holds them. Reads and verifies the blocks of `checksum_block`
  /// elements that hold them. Not for several threads at once.
  void read(const std::string& name, std::int64_t begin, std::span<float> values) const;

  /// Throws Error unless a file such as "source/base/config.json" is as it was written.
  void verify_file(const std::string& path) const { checkpoint::verify_file(directory_, path, manifest_); }
  /// Verifies every whole file, or every block of the tensors, whose number is `share` modulo `shares`: all with 0, 1.
  void verify_files(int share = 0, int shares = 1) const;
  void verify_tensors(int share = 0, int shares = 1) const;

 private:
  void read_part(const std::string& name, const Part& part, std::int64_t begin, std::span<float> values) const;
  /// Block `index` of a part, verified; valid until the next call.
  std::span<const float> read_block(const std::string& name, const Part& part, std::int64_t index) const;
  /// Open, of its size and with its HDF5 layout verified; until another rank's is asked for.
  const RandomAccessFile& rank_file(int rank) const;
  void verify_layout(int rank, const RandomAccessFile& file) const;

  std::filesystem::path directory_;
  Manifest manifest_;
  hdf5::File file_;
  std::int64_t step_;
  mutable std::map<int, RandomAccessFile> rank_files_;
  mutable std::set<int> verified_layouts_;
  mutable std::vector<float> block_;  // the last that was read, and which it is
  mutable const Part* block_part_ = nullptr;
  mutable std::int64_t block_index_ = 0;
};

}  // namespace mtp::checkpoint
