#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"
#include "mtp/core/json.h"
#include "mtp/parallel/sharded_unit.h"

namespace mtp::checkpoint {

/// A tensor of a run's state, and where its parts lie in the files of the ranks.
struct StateTensor {
  std::string name;  // "KIND/NAME"; kinds: parameters, exp_avg, exp_avg_sq
  Shape shape;
  std::vector<hdf5::VirtualPart> parts;
};

/// Every tensor of the state, as so many ranks hold it: moments of trained parameters only.
std::vector<StateTensor> state_tensors(const parallel::Units& units, int ranks);

/// A rank's shards as they are at one moment, on the host, as fp32: what is bf16 fits exactly.
class Snapshot {
 public:
  explicit Snapshot(const parallel::Units& units);

  /// Copies the shards as they are now. The memory of the copy is kept for the next one.
  void take(const Device& device);
  /// The same of shards that do not change until `write` has ended: what lies on the host is not copied.
  void take_unchanging(const Device& device);

  /// Writes a rank's file of a checkpoint, puts it on the disk and returns what a manifest says of it
  /// (`Manifest::add_rank`). Stops early, with an Error, where asked to. Uses nothing but what was taken: a thread of
  /// its own may call it while training goes on.
  Json write(const std::filesystem::path& path, const std::stop_token& stop) const;

  /// Of the values.
  std::int64_t bytes() const;

 private:
  /// A part of a tensor, within a shard.
  struct Part {
    std::string name;  // "KIND/NAME"
    std::int64_t begin = 0;
    std::size_t shard = 0;
    std::int64_t position = 0, elements = 0;
  };
  void copy(std::size_t shard, const Device& device);

  std::vector<Tensor> shards_;
  std::vector<std::vector<float>> copies_;      // [shards]; empty until the first copy
  std::vector<std::span<const float>> values_;  // [shards] what was taken
  std::vector<Part> parts_;
};

}  // namespace mtp::checkpoint
