#include "mtp/core/file.h"

#include <gmock/gmock.h>

#include <fstream>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp {
namespace {

namespace fs = std::filesystem;

void make_folder(const fs::path& folder, const std::string& file) {
  fs::create_directories(folder);
  std::ofstream(folder / file) << "x";
}

TEST(FileTest, AReplacedFolderHasTheNewContentAndNothingElseIsLeft) {
  const test::TempDir dir;
  make_folder(dir.path() / "new", "fresh");
  make_folder(dir.path() / "old", "stale");
  replace_folder(dir.path() / "new", dir.path() / "old");
  EXPECT_TRUE(fs::exists(dir.path() / "old" / "fresh"));
  EXPECT_FALSE(fs::exists(dir.path() / "old" / "stale"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(FileTest, AFolderThatCannotBeReplacedIsAsItWas) {
  const test::TempDir dir;
  make_folder(dir.path() / "old", "stale");
  EXPECT_THAT(test::error_of([&] { replace_folder(dir.path() / "gone", dir.path() / "old"); }),
              testing::HasSubstr("old: cannot be replaced: No such file or directory; it is as it was"));
  EXPECT_TRUE(fs::exists(dir.path() / "old" / "stale"));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(FileTest, WhatCannotBePutOnTheDiskIsNamed) {
  const test::TempDir dir;
  sync_to_disk(dir.path());
  EXPECT_THAT(test::error_of([&] { sync_to_disk(dir.path() / "gone"); }),
              testing::HasSubstr("gone: could not be written to the disk"));
}

}  // namespace
}  // namespace mtp
