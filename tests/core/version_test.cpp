#include "mtp/core/version.h"

#include <gmock/gmock.h>

namespace mtp {
namespace {

TEST(Version, NamesProgramRevisionAndLibraries) {
  EXPECT_THAT(
      version_text("mtp-train"),
      testing::MatchesRegex("mtp-train [0-9.]+\nrevision .+\nBoost 1[.].+\nHDF5 1[.].+\nfmt .+\nspdlog 1[.].+\n"));
}

}  // namespace
}  // namespace mtp
