#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/manifest.h"
#include "mtp/checkpoint/run_state.h"
#include "mtp/checkpoint/snapshot.h"
#include "mtp/model/tensor_table.h"
#include "mtp/parallel/communicator.h"

namespace mtp::checkpoint {

/// What a checkpoint of a pair takes on the disk, before there is anything of the pair in memory.
std::int64_t checkpoint_bytes(const model::TensorTable& table, int ranks);
/// How many complete ones a run keeps: the newest, and the best.
std::int64_t kept_at_most(const Settings::Checkpoint& settings);

/// What is saved beside the tensors, as RunState has it, and what then becomes of older checkpoints.
struct Save {
  std::int64_t step = 0, epoch = 0, position = 0;
  double next_lr = 0;
  std::vector<std::int64_t> best_first = {};  // steps, see Kept
  bool run_ends = false;
};

/// Saves a run while it goes on. A save goes through these stages, and the ranks agree, through the thread that trains,
/// before the next one begins:
///
///   copying     every rank copies its shards, if the run goes on; nothing else stops it
///   writing     every rank writes its file, rank 0 state.h5 too, on a thread of its own
///   completing  rank 0 writes the list of checksums, renames the folder and removes old checkpoints, on that thread
///
/// A save that fails, on any rank, is removed and leaves the run going with a warning. All functions but the
/// constructor are collective. The threads make no MPI calls.
class Saver {
 public:
  /// `source`: on rank 0, what there is to say of the files in RUN/source. The references must outlive it.
  Saver(RunDescription run, Manifest source, const parallel::Units& units, const Device& device,
        const parallel::Communicator& communicator);
  /// Gives up what is being written.
  ~Saver() = default;

  /// Throws AgreedError where there is no room for a checkpoint: before the first step, not after the last.
  void check_room() const;

  /// Begins to save; waits for the save before it. Returns when all is done, and needs no copy of shards on the host,
  /// where the run does not go on meanwhile: it ends, or is without `checkpoint.background`.
  void save(const Save& save);
  /// Lets a save that is under way go on to its next stage, once all ranks are ready. To be called after every step.
  void advance();
  /// Waits for the end of the save under way, good or bad.
  void wait();
  /// The same, and throws AgreedError where the last save failed.
  void finish();

 private:
  enum class Stage { none, writing, completing };
  /// What a thread says when it has ended.
  struct Outcome {
    std::exception_ptr failure;
    std::string report;  // of writing: what the manifest says of the rank's file
  };

  const std::filesystem::path& run_dir() const { return state_.run.settings.run.dir; }
  std::filesystem::path directory() const;
  /// Of a checkpoint, over all ranks.
  std::int64_t bytes() const;
  Json write(const std::stop_token& stop) const;
  void complete(const std::vector<std::string>& reports) const;
  template <typename Work>
  void start(Stage stage, Work work);
  /// Ends the stage under way and begins the next; waits for this rank's thread.
  void end_stage();
  void fail(const std::string& reason);

  RunState state_;
  Kept kept_;
  const Device& device_;
  const parallel::Communicator& communicator_;
  Snapshot snapshot_;
  std::vector<StateTensor> tensors_;
  Manifest source_;
  Stage stage_ = Stage::none;
  std::string failure_;  // of the last save
  std::chrono::steady_clock::time_point begin_;
  Outcome outcome_;
  std::atomic<bool> is_ready_ = false;
  std::jthread thread_;  // last, so that it ends before what it uses
};

}  // namespace mtp::checkpoint
