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

std::vector<StateTensor> state_tensors(const model::Parameters& parameters, int ranks) {
  std::vector<StateTensor> tensors;
  for_each_shard(parameters, [&](const std::string& kind, const dist::ShardedUnit& unit, const Tensor&) {
    const std::size_t first = tensors.size();
    for (const dist::UnitLayout::Member& member : unit.layout().members())
      tensors.push_back({kind + member.name, member.shape, {}});
    for (int rank = 0; rank < ranks; ++rank)
      for (const dist::ShardedUnit::Piece& piece : unit.pieces(rank)) {
        StateTensor& tensor = tensors[first + piece.member];
        tensor.parts.push_back({rank_file_name(rank), tensor.name, piece.begin, piece.elements});
      }
  });
  return tensors;
}

Snapshot::Snapshot(const model::Parameters& parameters) {
  for_each_shard(parameters, [&](const std::string& kind, const dist::ShardedUnit& unit, const Tensor& shard) {
    shards_.push_back(shard);
    const std::vector<float>& copy = copies_.emplace_back(shard.elements());
    for (const dist::ShardedUnit::Piece& piece : unit.pieces())
      parts_.push_back({kind + unit.layout().members()[piece.member].name, piece.begin,
                        std::span(copy).subspan(piece.position, piece.elements)});
  });
}

void Snapshot::take(const Device& device) {
  for (std::size_t i = 0; i < shards_.size(); ++i) device.to_host(shards_[i], copies_[i]);
}

std::int64_t Snapshot::bytes() const {
  const auto add = [](std::int64_t sum, const Part& part) { return sum + std::ssize(part.values); };
  return std::accumulate(parts_.begin(), parts_.end(), std::int64_t{0}, add) * std::int64_t{sizeof(float)};
}

// HDF5 lays the file out; the values are written past it, so that nothing else that reads HDF5 waits for the disk.
Json Snapshot::write(const fs::path& path, const std::stop_token& stop) const {
  std::map<std::string, checkpoint::Part> parts;
  std::map<std::int64_t, std::int64_t> ranges;
  hdf5::File layout = hdf5::File::create(path);
  for (const Part& part : parts_) {
    const std::int64_t elements = std::ssize(part.values);
    const std::int64_t position = layout.reserve_dataset<float>(part.name, {elements}).position_in_file();
    parts[part.name] = {.begin = part.begin, .elements = elements, .position = position, .checksums = {}};
    ranges[position] = elements * std::int64_t{sizeof(float)};
  }
  layout.close();

  RandomAccessFile file(path, RandomAccessFile::Access::write);
  for (const Part& part : parts_) {
    checkpoint::Part& written = parts[part.name];
    for (std::int64_t begin = 0; begin < written.elements; begin += checksum_block) {
      if (stop.stop_requested()) throw Error("{}: given up, the program ends", path.string());
      const std::int64_t elements = std::min(checksum_block, written.elements - begin);
      const auto block = std::as_bytes(part.values.subspan(begin, elements));
      written.checksums.push_back(checksum_of(block));
      file.write(written.position + begin * std::int64_t{sizeof(float)}, block);
    }
  }
  const std::string layout_checksum = checksum_between(file, ranges);
  file.sync();
  return to_json({file.bytes(), layout_checksum}, parts);
}

}  // namespace mtp::checkpoint
