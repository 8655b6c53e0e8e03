#include "mtp/checkpoint/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "mtp/core/error.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

std::string reason(int error) { return std::generic_category().message(error); }

bool lock_within(int file, std::chrono::seconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return true;
}

}  // namespace

RunDirectory::RunDirectory(const fs::path& path) {
  std::error_code failure;
  fs::create_directories(path, failure);
  if (failure) throw Error("{}: the run directory cannot be made: {}", path.string(), failure.message());
  const fs::path file = path / "lock";
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) throw Error("{}: cannot be written: {}; choose another run.dir", file.string(), reason(errno));
  if (!lock_within(lock_, std::chrono::seconds(10))) {
    const int error = errno;
    close(lock_);
    throw Error("{}: another job has this run directory ({}); wait for it or choose another run.dir", path.string(),
                reason(error));
  }
}

RunDirectory::~RunDirectory() { close(lock_); }

bool has_complete_checkpoint(const fs::path& run_dir) {
  return fs::exists(run_dir / "checkpoints" / "latest" / "state.h5");
}

fs::path resolve_checkpoint(const fs::path& from) {
  if (fs::exists(from / "state.h5")) return from;
  if (has_complete_checkpoint(from)) return fs::canonical(from / "checkpoints" / "latest");
  if (!fs::exists(from)) throw Error("{}: does not exist; name a run directory or a checkpoint", from.string());
  throw Error("{}: holds no complete checkpoint; name a run directory or a checkpoint", from.string());
}

}  // namespace mtp::checkpoint
