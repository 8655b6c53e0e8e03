#include "mtp/core/progress.h"

#include <gmock/gmock.h>

#include "mtp/core/log.h"

namespace mtp {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class ProgressTest : public testing::Test {
 protected:
  ~ProgressTest() override { start_log(0); }

  /// What a log shows of 10 files, of which 3 are done one by one.
  static std::string log_of(int rank, Progress::Clock::duration between_lines) {
    testing::internal::CaptureStderr();
    start_log(rank);
    Progress progress("reading", 10, "files", between_lines);
    for (int i = 0; i < 3; ++i) progress.add();
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(ProgressTest, ALogHasLinesOfWhatTakesLong) {
  const std::string log = log_of(0, {});
  EXPECT_THAT(log, HasSubstr("info: reading: 10 %, 1 of 10 files, "));
  EXPECT_THAT(log, HasSubstr("info: reading: 30 %, 3 of 10 files, "));
  EXPECT_THAT(log, HasSubstr(" a second, 0:00 left\n"));
}

TEST_F(ProgressTest, WhatIsSoonDoneAndOtherRanksSayNothing) {
  EXPECT_THAT(log_of(0, std::chrono::seconds(10)), IsEmpty());
  EXPECT_THAT(log_of(1, {}), IsEmpty());
}

TEST_F(ProgressTest, BytesAreShownAsMebibytes) {
  testing::internal::CaptureStderr();
  start_log(0);
  Progress progress("reading", 8 << 20, "bytes", {});
  progress.add(2 << 20);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("reading: 25 %, 2 of 8 MiB, "));
}

TEST(Duration, HasMinutesAndFromAnHourOnHours) {
  EXPECT_EQ(duration(65.2), "1:05");
  EXPECT_EQ(duration(2 * 3600 + 3 * 60 + 4), "2:03:04");
}

}  // namespace
}  // namespace mtp
