#include "mtp/checkpoint/snapshot.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "mtp/checkpoint/manifest.h"
#include "mtp/core/checksum.h"
#include "mtp/core/error.h"
#include "mtp/core/file.h"
#include "rank_file.h"
#include "state_kinds.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

std::vector<StateTensor> state_tensors(const parallel::Units& units, int ranks) {
  std::vector<StateTensor> tensors;
  for_each_shard(units, [&](const std::string& kind, const parallel::ShardedUnit& unit, const Tensor&) {
    const std::size_t first = tensors.size();
    for (const parallel::UnitLayout::Member& member : unit.layout().members())
      tensors.push_back({kind + member.name, member.shape, {}});
    for (int rank = 0; rank < ranks; ++rank)
      for (const parallel::ShardedUnit::Piece& piece : unit.pieces(rank)) {
        StateTensor& tensor = tensors[first + piece.member];
        tensor.parts.push_back({rank_file_name(rank), tensor.name, piece.begin, piece.elements});
      }
  });
  return tensors;
}

Snapshot::Snapshot(const parallel::Units& units) {
  for_each_shard(units, [&](const std::string& kind, const parallel::ShardedUnit& unit, const Tensor& shard) {
    for (const parallel::ShardedUnit::Piece& piece : unit.pieces())
      parts_.push_back({kind + unit.layout().members()[piece.member].name, piece.begin, shards_.size(), piece.position,
                        piece.elements});
    shards_.push_back(shard);
  });
  copies_.resize(shards_.size());
  values_.resize(shards_.size());
}

void Snapshot::copy(std::size_t shard, const Device& device) {
  copies_[shard].resize(shards_[shard].elements());
  device.to_host(shards_[shard], copies_[shard]);
  values_[shard] = copies_[shard];
}

void Snapshot::take(const Device& device) {
  for (std::size_t i = 0; i < shards_.size(); ++i) copy(i, device);
}

void Snapshot::take_unchanging(const Device& device) {
  if (device.kind() != Device::Kind::cpu) return take(device);
  for (std::size_t i = 0; i < shards_.size(); ++i)
    if (shards_[i].dtype() == DType::f32)
      values_[i] = std::span(shards_[i].f32(), shards_[i].elements());
    else
      copy(i, device);
}

std::int64_t Snapshot::bytes() const {
  const auto add = [](std::int64_t sum, const Part& part) { return sum + part.elements; };
  return std::accumulate(parts_.begin(), parts_.end(), std::int64_t{0}, add) * std::int64_t{sizeof(float)};
}

// HDF5 lays the file out in memory. It does not survive a disk that fails it: what it writes when it closes a file is
// lost, and the process crashes in the end. So it never sees the disk, and nothing else that reads HDF5 waits for it.
Json Snapshot::write(const fs::path& path, const std::stop_token& stop) const {
  std::map<std::string, checkpoint::Part> parts;
  Ranges ranges;
  auto [hdf5_file, layout] = hdf5::File::create_in_memory(path.parent_path());
  for (const Part& part : parts_) {
    const std::int64_t position = hdf5_file.reserve_dataset<float>(part.name, {part.elements}).position_in_file();
    parts[part.name] = {.begin = part.begin, .elements = part.elements, .position = position, .checksums = {}};
    ranges[position] = part.elements * std::int64_t{sizeof(float)};
  }
  hdf5_file.close();

  RandomAccessFile file = RandomAccessFile::create(path);
  read_between(layout, ranges, [&](std::int64_t position, auto bytes) { file.write(position, bytes); });
  for (const Part& part : parts_) {
    checkpoint::Part& written = parts[part.name];
    for (std::int64_t begin = 0; begin < written.elements; begin += checksum_block) {
      if (stop.stop_requested()) throw Error("{}: given up, the program ends", path.string());
      const std::int64_t elements = std::min(checksum_block, written.elements - begin);
      const auto block = std::as_bytes(values_[part.shard].subspan(part.position + begin, elements));
      written.checksums.push_back(checksum_of(block));
      const std::int64_t position = written.position + begin * std::int64_t{sizeof(float)};
      file.write(position, block);
      file.start_sync(position, std::ssize(block));
    }
  }
  MTP_ASSERT(file.bytes() == layout.bytes());
  file.sync();
  return to_json({file.bytes(), checksum_between(layout, ranges)}, parts);
}

}  // namespace mtp::checkpoint
