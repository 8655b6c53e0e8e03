#pragma once

#include <filesystem>

namespace mtp::checkpoint {

/// A run's folder, held by one job at a time: a kernel lock on `lock` that ends with the process.
class RunDirectory {
 public:
  /// Makes the folder and locks it; waits up to 10 s for a job that is just ending. Throws Error where it cannot be
  /// written or another job has it.
  explicit RunDirectory(const std::filesystem::path& path);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

 private:
  int lock_ = -1;
};

/// checkpoints/latest of a run: the newest complete checkpoint, if there is one.
bool has_complete_checkpoint(const std::filesystem::path& run_dir);

/// What `--from` names: a checkpoint, or a run's newest one. Throws Error where there is none.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& run_or_checkpoint);

}  // namespace mtp::checkpoint
