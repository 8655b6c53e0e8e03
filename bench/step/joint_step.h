#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "mtp/model/joint.h"
#include "mtp/model/make_pair.h"
#include "mtp/model/pair.h"
#include "mtp/model/parameters.h"
#include "mtp/parallel/communicator.h"
#include "mtp/train/optimizer.h"

namespace mtp::bench {

/// A random pair of a shape on every node's disk, for as long as this lives: its first rank writes it. Collective.
class PairOnDisk {
 public:
  PairOnDisk(const parallel::Communicator& communicator, const hf::Preset& shape,
             const std::filesystem::path& directory);
  ~PairOnDisk();
  PairOnDisk(const PairOnDisk&) = delete;
  PairOnDisk& operator=(const PairOnDisk&) = delete;

  std::filesystem::path base() const { return path_ / "base"; }
  std::filesystem::path drafter() const { return path_ / "drafter"; }

 private:
  std::filesystem::path path_;
  bool is_writer_;
};

/// Seconds of this rank since the last `reset`, on its host. A GPU computes while the host goes on: only steps that
/// wait for it between phases say what they take.
struct Phases {
  double compute = 0;        // forward and backward
  double communication = 0;  // waiting for it: what is not hidden behind compute
  double optimizer = 0;      // gradient norm and update
  double total() const { return compute + communication + optimizer; }
};

/// The training step of `mtp-train`, again and again on the same random tokens. Collective.
class JointStep {
 public:
  /// `settings.train.global_batch` sequences of `length` positions, each a micro-batch.
  JointStep(const parallel::Communicator& communicator, Device& device, const Settings& settings, std::int64_t length);

  /// One step; returns the loss of the base over all ranks' tokens.
  double run(double lr);
  /// One step that begins with phases of 0 and waits for a GPU between them.
  void run_by_phases(double lr);

  /// Of the products of this rank's share of a step, without what is recomputed.
  double flops() const { return flops_; }
  DType type() const { return sharding_.compute_dtype; }
  std::int64_t tokens() const { return settings_.train.global_batch * length_; }
  const Phases& phases() const { return phases_; }
  void reset() { phases_ = {}; }

 private:
  void end_phase();
  std::int64_t micro_batches() const { return settings_.train.global_batch / communicator_.size(); }  // of this rank

  const parallel::Communicator& communicator_;
  Settings settings_;
  std::int64_t length_;
  model::Pair pair_;
  double flops_;
  parallel::Sharding sharding_;
  model::Parameters parameters_;
  model::Joint joint_;
  train::Optimizer optimizer_;
  ops::Sequences sequences_;
  std::vector<std::vector<std::int64_t>> tokens_;  // of each micro-batch, and one more than positions
  std::int64_t step_ = 0;
  Phases phases_;
  bool waits_between_phases_ = false;
};

}  // namespace mtp::bench
