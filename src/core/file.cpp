#include "mtp/core/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <utility>

#include "mtp/core/error.h"

namespace mtp {

namespace fs = std::filesystem;

namespace {

Error unreadable(const fs::path& path) {
  return Error("{}: cannot be read: {}; check the path, its permissions and its disk", path.string(),
               system_reason(errno));
}

Error unwritable(const fs::path& path) {
  return Error("{}: cannot be written: {}; check the folder and the free space", path.string(), system_reason(errno));
}

}  // namespace

void check_is_file(const fs::path& path) {
  std::error_code unused;
  const auto status = fs::status(path, unused);
  if (fs::exists(status) && !fs::is_regular_file(status)) throw Error("{}: is no regular file", path.string());
}

bool is_missing(const fs::path& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) == 0) return false;
  if (errno != ENOENT && errno != ENOTDIR) throw unreadable(path);
  return true;
}

std::int64_t free_bytes(const fs::path& folder) {
  struct statvfs system = {};
  if (statvfs(folder.c_str(), &system) != 0)
    throw Error("{}: the free space is unknown: {}", folder.string(), system_reason(errno));
  return static_cast<std::int64_t>(system.f_bavail * system.f_frsize);
}

void sync_to_disk(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool done = file >= 0 && fsync(file) == 0;
  if (file >= 0) close(file);
  if (!done) throw Error("{}: could not be written to the disk", path.string());
}

void sync_folder_to_disk(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) sync_to_disk(entry.path());
  sync_to_disk(folder);
}

void replace_folder(const fs::path& from, const fs::path& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(from);
    return;
  }
  fs::path aside = to;
  aside += ".replaced";
  fs::remove_all(aside);
  fs::rename(to, aside);
  std::error_code failure;
  fs::rename(from, to, failure);
  if (failure) {
    fs::rename(aside, to);
    throw Error("{}: cannot be replaced: {}; it is as it was", to.string(), failure.message());
  }
  fs::remove_all(aside);
}

RandomAccessFile::RandomAccessFile(int file, fs::path path) : path_(std::move(path)), file_(file) {}

RandomAccessFile::RandomAccessFile(fs::path path, Access access)
    : path_(std::move(path)), file_(::open(path_.c_str(), (access == Access::read ? O_RDONLY : O_RDWR) | O_CLOEXEC)) {
  if (file_ < 0) throw access == Access::read ? unreadable(path_) : unwritable(path_);
}

RandomAccessFile RandomAccessFile::create(fs::path path) {
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) throw unwritable(path);
  return RandomAccessFile(file, std::move(path));
}

RandomAccessFile RandomAccessFile::temporary(const fs::path& folder) {
  std::string path = folder / ".mtp-XXXXXX";
  const int file = mkostemp(path.data(), O_CLOEXEC);
  if (file < 0) throw unwritable(folder);
  return RandomAccessFile(file, path);
}

RandomAccessFile::RandomAccessFile(RandomAccessFile&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

RandomAccessFile::~RandomAccessFile() {
  if (file_ >= 0) close(file_);
}

std::int64_t RandomAccessFile::bytes() const {
  struct stat status = {};
  if (fstat(file_, &status) != 0) throw unreadable(path_);
  return status.st_size;
}

void RandomAccessFile::resize(std::int64_t bytes) {
  if (ftruncate(file_, bytes) != 0) throw unwritable(path_);
}

void RandomAccessFile::unlink() const { ::unlink(path_.c_str()); }

void RandomAccessFile::read(std::int64_t position, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t count = pread(file_, bytes.data(), bytes.size(), position);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw unreadable(path_);
    if (count == 0) throw DamageError("{}: cannot be read: it was cut off at byte {}", path_.string(), position);
    position += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void RandomAccessFile::write(std::int64_t position, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = pwrite(file_, bytes.data(), bytes.size(), position);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw unwritable(path_);
    position += count;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void RandomAccessFile::start_sync(std::int64_t position, std::int64_t bytes) {
  sync_file_range(file_, position, bytes, SYNC_FILE_RANGE_WRITE);  // a hint: `sync` finds what goes wrong
}

void RandomAccessFile::sync() {
  if (fsync(file_) != 0) throw unwritable(path_);
}

}  // namespace mtp
