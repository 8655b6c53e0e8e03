#include "mtp/checkpoint/run_directory.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "mtp/checkpoint/directory.h"
#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

/// File systems without locks: Lustre mounted without them, NFS without its lock service.
bool has_no_locks(int error) {
  constexpr int not_supported_within_the_kernel = 524;  // ENOTSUPP, which some file systems let out
  return error == ENOSYS || error == ENOLCK || error == ENOTSUP || error == EOPNOTSUPP || error == EINVAL ||
         error == not_supported_within_the_kernel;
}

/// A file of the run directory, opened and locked; -1 where there is none and `flags` do not create it, and on a file
/// system without locks.
int lock_file(const fs::path& run_dir, const char* name, int flags, int kind) {
  const fs::path file = run_dir / name;
  const int lock = open(file.c_str(), flags | O_CLOEXEC, 0644);
  if (lock < 0 && (flags & O_CREAT) == 0 && errno == ENOENT) return -1;
  const char* use = (flags & O_CREAT) == 0 ? "opened" : "written";
  if (lock < 0) throw Error("{}: cannot be {}: {}; choose another folder", file.string(), use, system_reason(errno));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (flock(lock, kind | LOCK_NB) != 0) {
    const int error = errno;
    if (has_no_locks(error)) {
      close(lock);
      return -1;
    }
    if (error == EWOULDBLOCK && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    close(lock);
    throw Error("{}: another job has this run directory ({}); wait for it or choose another", run_dir.string(),
                system_reason(error));
  }
  return lock;
}

void unlock(int lock) {
  if (lock >= 0) close(lock);
}

constexpr const char *first_rank = "lock", *other_ranks = "lock.ranks";

}  // namespace

RunDirectory::RunDirectory(const fs::path& path) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (failure) throw Error("{}: the run directory cannot be made: {}", path.string(), failure.message());
  lock_ = lock_file(path, first_rank, O_RDWR | O_CREAT, LOCK_EX);
  if (lock_ < 0)
    spdlog::warn("{}: its file system has no locks: nothing keeps a second job out of this run; start no other here",
                 path.string());
  unlock(lock_file(path, other_ranks, O_RDWR | O_CREAT, LOCK_EX));
}

RunDirectory RunDirectory::of_other_rank(const fs::path& path) {
  RunDirectory directory;
  directory.lock_ = lock_file(path, other_ranks, O_RDWR, LOCK_SH);
  return directory;
}

RunDirectory::~RunDirectory() { unlock(lock_); }

void wait_for_other_job(const fs::path& run_dir) {
  unlock(lock_file(run_dir, first_rank, O_RDONLY, LOCK_SH));
  unlock(lock_file(run_dir, other_ranks, O_RDONLY, LOCK_EX));
}

void check_run_directory(const fs::path& run_dir) {
  const fs::path existing = existing_part(run_dir);
  int reason = 0;
  if (!fs::is_directory(existing))
    reason = ENOTDIR;
  else if (access(existing.c_str(), W_OK | X_OK) != 0)
    reason = errno;
  if (reason != 0) throw Error("{}: the run directory cannot be made: {}", run_dir.string(), system_reason(reason));
  wait_for_other_job(run_dir);
}

bool has_complete_checkpoint(const fs::path& run_dir) { return !complete_checkpoints(run_dir).empty(); }

std::vector<fs::path> named_checkpoints(const fs::path& from) {
  if (is_checkpoint(from)) return {from};
  if (is_missing(from)) throw Error("{}: does not exist; name a run directory or a checkpoint", from.string());
  std::vector<fs::path> found;
  for (const Complete& checkpoint : complete_checkpoints(from)) found.push_back(checkpoint.directory);
  if (found.empty())
    throw Error("{}: holds no complete checkpoint; name a run directory or a checkpoint", from.string());
  std::ranges::reverse(found);
  return found;
}

}  // namespace mtp::checkpoint
