#include "mtp/core/version.h"

#include <H5public.h>
#include <fmt/format.h>
#include <spdlog/version.h>
#include <xxhash.h>

#include <boost/version.hpp>

namespace mtp {

std::string version_text(std::string_view program) {
  return fmt::format(
      "{} {}\n"
      "revision {}\n"
      "Boost {}.{}.{}\n"
      "HDF5 {}.{}.{}\n"
      "fmt {}.{}.{}\n"
      "spdlog {}.{}.{}\n"
      "xxHash {}.{}.{}\n",
      program, MTP_VERSION, MTP_REVISION, BOOST_VERSION / 100000, BOOST_VERSION / 100 % 1000, BOOST_VERSION % 100,
      H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE, FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100,
      SPDLOG_VER_MAJOR, SPDLOG_VER_MINOR, SPDLOG_VER_PATCH, XXH_VERSION_MAJOR, XXH_VERSION_MINOR, XXH_VERSION_RELEASE);
}

}  // namespace mtp
