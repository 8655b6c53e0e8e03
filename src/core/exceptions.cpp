#include "mtp/core/exceptions.h"

#include <filesystem>

#include "mtp/core/error.h"

namespace mtp {

std::string message_of(const std::exception& error) {
  if (const auto* of_files = dynamic_cast<const std::filesystem::filesystem_error*>(&error)) {
    const auto& path = of_files->path2().empty() ? of_files->path1() : of_files->path2();  // to which it copied
    return one_line(fmt::format("{}: {}; check the path, its permissions and the free space", path.string(),
                                of_files->code().message()));
  }
  return one_line(fmt::format("unexpected: {}", error.what()));
}

}  // namespace mtp
