#include "mtp/checkpoint/state.h"

#include <algorithm>

#include "mtp/core/checksum.h"
#include "mtp/core/error.h"
#include "mtp/core/progress.h"
#include "mtp/parallel/ordered_sum.h"
#include "rank_file.h"
#include "state_file.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

/// As many ranks may have written as there are GPUs in a cluster; a process may have some hundred files open.
constexpr std::int64_t most_open_files = 16;

hdf5::File open_state(const fs::path& checkpoint, const Manifest& manifest) {
  const fs::path path = checkpoint / "state.h5";
  verify_file(checkpoint, "state.h5", manifest);
  hdf5::File file = hdf5::File::open(path);
  if (!file.has_attribute("format") || file.attribute<std::string>("format") != state_format)
    throw DamageError("{}: is no checkpoint of this program", path.string());
  const auto version = file.attribute<std::int64_t>("version");
  if (version < oldest_state_version || version > state_version)
    throw Error("{}: has version {}, this program reads versions {} to {}; use the program that wrote it",
                path.string(), version, oldest_state_version, state_version);
  const auto group_size = file.attribute<std::int64_t>("group_size");
  if (group_size != parallel::group_size)
    throw Error(
        "{}: micro-batches were added in groups of {}, this program adds {}; it would not continue with the same bits",
        path.string(), group_size, parallel::group_size);
  return file;
}

}  // namespace

State::State(fs::path checkpoint)
    : directory_(std::move(checkpoint)),
      manifest_(Manifest::read(directory_ / "checksums.json")),
      file_(open_state(directory_, manifest_)),
      step_(file_.attribute<std::int64_t>("step")) {}

void State::read(const std::string& name, std::int64_t begin, std::span<float> values) const {
  const auto found = manifest_.tensors.find(name);
  if (found == manifest_.tensors.end()) throw DamageError("{}: has no tensor {}", directory_.string(), name);
  const std::int64_t end = begin + std::ssize(values);
  std::int64_t read = begin;
  for (const Part& part : found->second) {
    const std::int64_t from = std::max(begin, part.begin), to = std::min(end, part.begin + part.elements);
    if (from >= to) continue;
    read_part(name, part, from - part.begin, values.subspan(from - begin, to - from));
    read = to;
  }
  if (read != end) throw DamageError("{}: tensor {} ends before element {}", directory_.string(), name, end);
}

void State::read_part(const std::string& name, const Part& part, std::int64_t begin, std::span<float> values) const {
  while (!values.empty()) {
    const std::int64_t index = begin / checksum_block, skip = begin % checksum_block;
    const std::span<const float> block = read_block(name, part, index).subspan(skip);
    const std::size_t count = std::min(block.size(), values.size());
    std::copy_n(block.begin(), count, values.begin());
    values = values.subspan(count);
    begin += static_cast<std::int64_t>(count);
  }
}

std::span<const float> State::read_block(const std::string& name, const Part& part, std::int64_t index) const {
  if (block_part_ == &part && block_index_ == index) return block_;
  block_part_ = nullptr;
  const std::int64_t first = index * checksum_block;
  block_.resize(static_cast<std::size_t>(std::min(checksum_block, part.elements - first)));
  const auto bytes = std::as_writable_bytes(std::span(block_));
  rank_file(part.rank).read(part.position + first * std::int64_t{sizeof(float)}, bytes);
  if (checksum_of(bytes) != part.checksums[static_cast<std::size_t>(index)])
    throw DamageError("{}: dataset {}: the checksum of elements {} to {} is not the one of what was written",
                      (directory_ / rank_file_name(part.rank)).string(), name, first, first + std::ssize(block_) - 1);
  block_part_ = &part;
  block_index_ = index;
  return block_;
}

const RandomAccessFile& State::rank_file(int rank) const {
  if (const auto open = rank_files_.find(rank); open != rank_files_.end()) return open->second;
  const fs::path path = directory_ / rank_file_name(rank);
  if (is_missing(path)) throw DamageError("{}: is missing", path.string());
  RandomAccessFile file(path, RandomAccessFile::Access::read);
  const RankFile& written = manifest_.rank_files[static_cast<std::size_t>(rank)];
  if (file.bytes() != written.bytes)
    throw DamageError("{}: has {} bytes, {} were written", path.string(), file.bytes(), written.bytes);
  if (!verified_layouts_.contains(rank)) verify_layout(rank, file);
  if (std::ssize(rank_files_) == most_open_files) rank_files_.clear();
  return rank_files_.emplace(rank, std::move(file)).first->second;
}

void State::verify_layout(int rank, const RandomAccessFile& file) const {
  Ranges ranges;
  for (const auto& [unused, parts] : manifest_.tensors)
    for (const Part& part : parts)
      if (part.rank == rank) ranges[part.position] = part.elements * std::int64_t{sizeof(float)};
  if (checksum_between(file, ranges) != manifest_.rank_files[static_cast<std::size_t>(rank)].layout_checksum)
    throw DamageError("{}: the checksum of its HDF5 layout is not the one of what was written", file.path().string());
  verified_layouts_.insert(rank);
}

void State::verify_files(int share, int shares) const {
  int number = 0;
  for (const auto& [path, unused] : manifest_.files)
    if (number++ % shares == share) verify_file(path);
}

void State::verify_tensors(int share, int shares) const {
  std::int64_t blocks = 0;
  for (const auto& [unused, parts] : manifest_.tensors)
    for (const Part& part : parts) blocks += std::ssize(part.checksums);
  Progress progress("verifying " + directory_.string(), blocks / shares * checksum_block * std::int64_t{sizeof(float)},
                    "bytes");
  int number = 0;
  for (int rank = 0; rank < manifest_.ranks(); ++rank)
    if (rank % shares == share) rank_file(rank);
  for (const auto& [name, parts] : manifest_.tensors)
    for (const Part& part : parts)
      for (std::int64_t block = 0; block < std::ssize(part.checksums); ++block)
        if (number++ % shares == share)
          progress.add(std::ssize(read_block(name, part, block)) * std::int64_t{sizeof(float)});
}

}  // namespace mtp::checkpoint
