#include "mtp/core/error.h"

#include <gtest/gtest.h>

#include "mtp/core/json.h"
#include "support/error_of.h"

namespace mtp {
namespace {

TEST(Error, IsOneLine) { EXPECT_EQ(std::string(Error("{}: a\nb\tc", "file").what()), "file: a b c"); }

TEST(Error, KeepsUtf8AndReplacesWhatIsNone) {
  EXPECT_EQ(std::string(Error("größe \"1\" \\").what()), "größe \"1\" \\");
  EXPECT_EQ(std::string(Error("{}", "a\xd7z").what()), "a\xef\xbf\xbdz");
}

TEST(Error, OfDamagedJsonShowsItsBytesAsUtf8) {
  const std::string message = test::error_of([] { parse_json("{\"x\xd7\": 1}", "file:"); });
  EXPECT_NE(message.find("last read: '\"x\xef\xbf\xbd"), std::string::npos) << message;
}

}  // namespace
}  // namespace mtp
