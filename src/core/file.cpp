#include "mtp/core/file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "mtp/core/error.h"

namespace mtp {

namespace {

Error failed(const std::filesystem::path& path, const char* action) {
  return Error("{}: cannot be {}: {}", path.string(), action, std::generic_category().message(errno));
}

}  // namespace

void check_is_file(const std::filesystem::path& path) {
  std::error_code unused;
  const auto status = std::filesystem::status(path, unused);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw Error("{}: is no regular file", path.string());
}

void sync(const std::filesystem::path& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool done = file >= 0 && fsync(file) == 0;
  const Error error = failed(path, "put on the disk");
  if (file >= 0) close(file);
  if (!done) throw error;
}

RandomAccessFile::RandomAccessFile(std::filesystem::path path)
    : path_(std::move(path)), file_(open(path_.c_str(), O_RDWR | O_CLOEXEC)) {
  if (file_ < 0) throw failed(path_, "opened for writing");
}

RandomAccessFile::~RandomAccessFile() { close(file_); }

void RandomAccessFile::write(std::int64_t position, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file_, bytes.data(), bytes.size(), position);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw failed(path_, "written");
    position += written;
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void RandomAccessFile::sync() {
  if (fsync(file_) != 0) throw failed(path_, "put on the disk");
}

}  // namespace mtp
