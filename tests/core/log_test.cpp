#include "mtp/core/log.h"

#include <gmock/gmock.h>
#include <spdlog/spdlog.h>

#include <fstream>
#include <sstream>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

class LogTest : public testing::Test {
 protected:
  ~LogTest() override { start_log(0); }

  std::string log_file() const {
    std::ostringstream text;
    text << std::ifstream(dir.path() / "log.txt").rdbuf();
    return text.str();
  }

  test::TempDir dir;
};

TEST_F(LogTest, FirstRankLogsToScreenAndFileWithTheTime) {
  testing::internal::CaptureStderr();
  start_log(0, dir.path());
  spdlog::info("step {}", 1);
  const std::string time = "....-..-.. ..:..:.. ";
  EXPECT_THAT(log_file(), MatchesRegex(time + "info: step 1\n"));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), MatchesRegex(time + "info: step 1\n"));
}

TEST_F(LogTest, OtherRanksLogOnlyWhatIsWrongWithTheirNumber) {
  testing::internal::CaptureStderr();
  start_log(3);
  spdlog::info("step {}", 1);
  spdlog::warn("slow disk");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), MatchesRegex(".* rank 3 warning: slow disk\n"));
}

TEST_F(LogTest, ARestartedRunAddsToItsLog) {
  testing::internal::CaptureStderr();
  start_log(0, dir.path());
  spdlog::info("first start");
  start_log(0, dir.path());
  spdlog::info("second start");
  testing::internal::GetCapturedStderr();
  EXPECT_THAT(log_file(), testing::AllOf(HasSubstr("first start"), HasSubstr("second start")));
}

TEST_F(LogTest, ALogThatCannotBeOpenedIsNamed) {
  const auto file = dir.path() / "file";
  std::ofstream(file) << "in the way";
  EXPECT_THAT(test::error_of([&] { start_log(0, file); }), HasSubstr("file/log.txt: cannot open the log: "));
}

}  // namespace
}  // namespace mtp
