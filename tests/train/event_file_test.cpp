#include "mtp/train/event_file.h"

#include <gmock/gmock.h>

#include <fstream>
#include <sstream>

#include "support/temp_dir.h"

namespace mtp::train {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// tests/check_keeping.py has what TensorBoard's own reader says.
class EventFileTest : public testing::Test {
 protected:
  void write(std::int64_t last_step, const std::vector<std::string>& lines) {
    EventFile file(path, last_step, "[run]\n");
    for (const std::string& line : lines) file.add("train", line);
    file.finish();
  }
  std::string bytes() const {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "events";
};

TEST_F(EventFileTest, BeginsWithTheVersionInARecordWithMaskedChecksums) {
  write(0, {});
  // The message's length, 26, and the checksum that TensorBoard's masked_crc32c has for it, 0x2dd89b12.
  EXPECT_THAT(bytes(), StartsWith(std::string("\x1a\0\0\0\0\0\0\0\x12\x9b\xd8\x2d", 12)));
  EXPECT_THAT(bytes(), HasSubstr("brain.Event:2"));
}

TEST_F(EventFileTest, AResumedRunKeepsTheBytesUpToItsStepAndCutsTheRest) {
  const std::string first = R"({"step": 1, "loss": 4.5})", second = R"({"step": 300, "loss": 4.0})";
  write(0, {first});
  const std::string kept = bytes();
  write(1, {second});
  EXPECT_THAT(bytes(), StartsWith(kept));
  EXPECT_GT(bytes().size(), kept.size());
  const std::string whole = bytes();
  write(300, {});
  EXPECT_EQ(bytes(), whole);
  write(299, {});
  EXPECT_EQ(bytes(), kept);
}

TEST_F(EventFileTest, WhatAKilledRunLeftUnfinishedIsCut) {
  write(0, {R"({"step": 1, "loss": 4.5})"});
  const std::string kept = bytes();
  write(1, {R"({"step": 2, "loss": 4.0})"});
  std::filesystem::resize_file(path, bytes().size() - 3);
  write(2, {});
  EXPECT_EQ(bytes(), kept);
}

TEST_F(EventFileTest, ListsAndObjectsBecomeCurvesOfTheirOwn) {
  write(0, {R"({"step": 1, "loss_drafter": [3, 2], "domains": {"code": {"loss_base": 1}}})"});
  for (const char* curve : {"train/loss_drafter/round_1", "train/domains/code/loss_base"})
    EXPECT_THAT(bytes(), HasSubstr(curve));
  EXPECT_THAT(bytes(), testing::Not(HasSubstr("train/step")));
}

}  // namespace
}  // namespace mtp::train
