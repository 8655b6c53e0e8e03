#include "mtp/core/checksum.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "support/temp_dir.h"

namespace mtp {
namespace {

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// `xxh128sum` of xxHash 0.8.1.
TEST(ChecksumTest, IsThatOfTheLibrarysOwnProgram) {
  EXPECT_EQ(checksum_of(bytes("")), "99aa06d3014798d86001c324468d497f");
}

TEST(ChecksumTest, DoesNotDependOnThePieces) {
  const std::string text(3000, 'x');
  Checksum checksum;
  for (int i = 0; i < 3; ++i) checksum.add(bytes(text).subspan(i * 1000, 1000));
  EXPECT_EQ(checksum.text(), checksum_of(bytes(text)));
}

TEST(ChecksumTest, OfPartsOfAFile) {
  const test::TempDir dir;
  const auto path = dir.path() / "file";
  std::ofstream(path) << "0123456789";
  EXPECT_EQ(checksum_of_file(path), checksum_of(bytes("0123456789")));
  EXPECT_EQ(checksum_of_file(path, 2, 3), checksum_of(bytes("234")));
  EXPECT_EQ(checksum_of_file(path, 8, 100), checksum_of(bytes("89")));
}

}  // namespace
}  // namespace mtp
