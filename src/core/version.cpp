#include "mtp/core/version.h"

#include <H5public.h>
#include <fmt/format.h>
#include <spdlog/version.h>
#include <xxhash.h>

#include <boost/version.hpp>

namespace mtp {

std::string version() { return MTP_VERSION; }
std::string revision() { return MTP_REVISION; }

std::vector<Library> libraries() {
  const auto dotted = [](int major, int minor, int patch) { return fmt::format("{}.{}.{}", major, minor, patch); };
  return {{"Boost", dotted(BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, BOOST_VERSION % 100)},
          {"HDF5", dotted(H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE)},
          {"fmt", dotted(FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
          {"spdlog", dotted(SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH)},
          {"xxHash", dotted(XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE)}};
}

std::string version_text(std::string_view program) {
  std::string text = fmt::format("{} {}\nrevision {}\n", program, version(), revision());
  for (const Library& library : libraries()) text += fmt::format("{} {}\n", library.name, library.version);
  return text;
}

}  // namespace mtp
