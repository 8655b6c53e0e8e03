#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"
#include "mtp/core/json.h"
#include "mtp/model/parameters.h"

namespace mtp::checkpoint {

/// A tensor of a run's state, and where its parts lie in the files of the ranks.
struct StateTensor {
  std::string name;  // "KIND/NAME"; kinds: parameters, exp_avg, exp_avg_sq
  Shape shape;
  std::vector<hdf5::VirtualPart> parts;
};

/// Every tensor of the state, as so many ranks hold it: moments of trained parameters only.
std::vector<StateTensor> state_tensors(const model::Parameters& parameters, int ranks);

/// A copy of a rank's shards, on the host.
class Snapshot {
 public:
  /// Sets the memory aside.
  explicit Snapshot(const model::Parameters& parameters);

  /// Copies the shards as they are now.
  void take(const Device& device);
  std::int64_t bytes() const;

  /// Writes a rank's file of a checkpoint, puts it on the disk and returns what a manifest says of it
  /// (`Manifest::add_rank`). Stops early, with an Error, where asked to. Uses nothing but the copy: a thread of its own
  /// may call it while training goes on.
  Json write(const std::filesystem::path& path, const std::stop_token& stop) const;

 private:
  /// A part of a tensor, within the copy of a shard.
  struct Part {
    std::string name;  // "KIND/NAME"
    std::int64_t begin = 0;
    std::span<const float> values;
  };
  std::vector<Tensor> shards_;
  std::vector<std::vector<float>> copies_;
  std::vector<Part> parts_;
};

}  // namespace mtp::checkpoint
