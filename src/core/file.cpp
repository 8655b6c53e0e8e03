#include "mtp/core/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <system_error>

#include "mtp/core/error.h"

namespace mtp {

namespace fs = std::filesystem;

void check_is_file(const fs::path& path) {
  std::error_code unused;
  const auto status = fs::status(path, unused);
  if (fs::exists(status) && !fs::is_regular_file(status)) throw Error("{}: is no regular file", path.string());
}

void sync_to_disk(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool done = file >= 0 && fsync(file) == 0;
  if (file >= 0) close(file);
  if (!done) throw Error("{}: could not be written to the disk", path.string());
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

}  // namespace mtp
