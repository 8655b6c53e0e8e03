#include "mtp/hf/end_tokens.h"

#include <gmock/gmock.h>

#include "mtp/core/json.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class EndTokensTest : public testing::Test {
 protected:
  std::vector<std::int64_t> read(const Json& config, const Json& generation = nullptr) {
    write_json(dir.path() / "config.json", config);
    if (!generation.is_null()) write_json(dir.path() / "generation_config.json", generation);
    return read_end_tokens(dir.path());
  }

  test::TempDir dir;
};

TEST_F(EndTokensTest, AreThoseOfTheGenerationConfigANumberOrAList) {
  const Json config = {{"eos_token_id", 9}};
  EXPECT_THAT(read(config, {{"eos_token_id", 3}}), ElementsAre(3));
  EXPECT_THAT(read(config, {{"eos_token_id", {1, 106}}}), ElementsAre(1, 106));
}

TEST_F(EndTokensTest, AreThoseOfTheConfigWhereTheGenerationConfigHasNone) {
  const Json text = {{"text_config", {{"eos_token_id", 7}}}};
  EXPECT_THAT(read(text), ElementsAre(7));
  EXPECT_THAT(read({{"eos_token_id", {8, 9}}, {"text_config", {{"eos_token_id", 7}}}}), ElementsAre(8, 9));
  EXPECT_THAT(read(text, {{"eos_token_id", nullptr}}), ElementsAre(7));
  EXPECT_THAT(read({{"text_config", Json::object()}}), IsEmpty());
}

TEST_F(EndTokensTest, WhatIsNoTokenIsAnErrorThatNamesTheFile) {
  EXPECT_EQ(test::error_of([&] {
              read(Json::object(), {{"eos_token_id", {1, "end"}}});
            }),
            (dir.path() / "generation_config.json").string() +
                ": eos_token_id must be a token or a list of tokens, not \"end\"");
}

}  // namespace
}  // namespace mtp::hf
