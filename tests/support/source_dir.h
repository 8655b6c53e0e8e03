#pragma once

#include <cstdlib>
#include <filesystem>

namespace mtp::test {

/// The repository, where tests find their fixtures; the environment's MTP_SOURCE_DIR where it has moved since the
/// build.
inline std::filesystem::path source_dir() {
  const char* const moved = std::getenv("MTP_SOURCE_DIR");
  return moved != nullptr ? moved : MTP_SOURCE_DIR;
}

}  // namespace mtp::test
