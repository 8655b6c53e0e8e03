#pragma once

#include <filesystem>
#include <utility>
#include <vector>

namespace mtp::checkpoint {

/// A run's folder, held by one job at a time: kernel locks that end with the processes. Rank 0 holds `lock`; the other
/// ranks share `lock.ranks`, so that ranks that outlive the rest of their job are waited for too.
class RunDirectory {
 public:
  /// For rank 0: makes the folder and locks it; waits up to 10 s for a job that is just ending. Throws Error where it
  /// cannot be written or another job has it.
  explicit RunDirectory(const std::filesystem::path& path);
  /// For the other ranks, once rank 0 has the folder.
  static RunDirectory of_other_rank(const std::filesystem::path& path);
  RunDirectory(RunDirectory&& other) noexcept : lock_(std::exchange(other.lock_, -1)) {}
  ~RunDirectory();
  RunDirectory& operator=(RunDirectory&&) = delete;

 private:
  RunDirectory() = default;

  int lock_ = -1;
};

/// Waits up to 10 s for the end of a job that has the run directory. Throws Error where it goes on.
void wait_for_other_job(const std::filesystem::path& run_dir);

/// Throws Error where a run directory could not be made or taken now. Writes nothing.
void check_run_directory(const std::filesystem::path& run_dir);

bool has_complete_checkpoint(const std::filesystem::path& run_dir);

/// What `--from` names: a checkpoint, or a run's complete ones, sound or not, the newest first. Throws Error where
/// there is none.
std::vector<std::filesystem::path> named_checkpoints(const std::filesystem::path& run_or_checkpoint);

}  // namespace mtp::checkpoint
