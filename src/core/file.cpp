#include "mtp/core/file.h"

#include <system_error>

#include "mtp/core/error.h"

namespace mtp {

void check_is_file(const std::filesystem::path& path) {
  std::error_code unused;
  const auto status = std::filesystem::status(path, unused);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw Error("{}: is no regular file", path.string());
}

}  // namespace mtp
