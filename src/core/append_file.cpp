#include "mtp/core/append_file.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "mtp/core/error.h"

namespace mtp {

AppendFile::AppendFile(std::filesystem::path path, std::uintmax_t kept_bytes) : path_(std::move(path)) {
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  // Cut, not written again: a run that is killed here must not lose what it has.
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(kept_bytes)) != 0)
    throw Error("{}: cannot be written: {}; check run.dir", path_.string(), system_reason(errno));
}

AppendFile::~AppendFile() { close(file_); }

void AppendFile::append(std::string_view bytes) {
  unwritten_ += bytes;
  write();
  if (!unwritten_.empty() && !std::exchange(is_warned_, true))
    spdlog::warn("{}: cannot be written: {}; what it lacks is kept until it can", path_.string(), system_reason(errno));
}

void AppendFile::finish() {
  write();
  if (!unwritten_.empty())
    throw Error("{}: cannot be written: {}; check the free space", path_.string(), system_reason(errno));
}

void AppendFile::write() {
  while (!unwritten_.empty()) {
    const ssize_t count = ::write(file_, unwritten_.data(), unwritten_.size());
    if (count <= 0) return;
    unwritten_.erase(0, static_cast<std::size_t>(count));
  }
  is_warned_ = false;
}

}  // namespace mtp
