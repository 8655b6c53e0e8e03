#include "mtp/data/prompts_file.h"

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/write_data.h"

namespace mtp::data {
namespace {

using testing::ElementsAre;

class PromptsFileTest : public testing::Test {
 protected:
  /// Lists of 1, 3 and 2 tokens.
  PromptsFileTest() {
    for (const auto& tokens : {std::vector{5}, {6, 7, 8}, {9, 10}}) parts.add(tokens);
  }
  PromptsFile file(bool with_loss_mask = false) {
    hdf5::File written = hdf5::File::create(path);
    written.set_attribute("format", parts.format);
    written.set_attribute("version", parts.version);
    written.set_attribute("vocab_size", parts.vocab_size);
    written.set_attribute("pad_token_id", parts.pad_token_id);
    test::write_dataset(written, "tokens", parts.tokens);
    test::write_dataset(written, "offsets", parts.offsets);
    if (with_loss_mask) test::write_dataset(written, "loss_mask", parts.loss_mask);
    if (!kinds.empty()) {
      test::write_dataset(written, "kind", kinds);
      written.dataset("kind").set_attribute("names", std::string("code\nprose"));
    }
    written.close();
    return PromptsFile(path);
  }
  template <typename Action>
  std::string without_path(Action action) {
    const std::string message = test::error_of(action), where = path.string();
    return message.starts_with(where) ? message.substr(where.size()) : message;
  }

  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "prompts.h5";
  test::DataParts parts;
  std::vector<std::int32_t> kinds;
};

TEST_F(PromptsFileTest, GivesPromptsOfOneTokenAndMore) {
  const PromptsFile prompts = file();
  EXPECT_EQ(prompts.prompts(), 3);
  EXPECT_EQ(prompts.vocab_size(), 100);
  EXPECT_THAT(prompts.prompt(0), ElementsAre(5));
  EXPECT_THAT(prompts.prompt(1), ElementsAre(6, 7, 8));
  EXPECT_THAT(prompts.prompt(2), ElementsAre(9, 10));
}

TEST_F(PromptsFileTest, APromptMayHaveAKind) {
  EXPECT_EQ(file().kind(2), "");
  kinds = {0, 1, 0};
  EXPECT_EQ(file().kind(1), "prose");
  EXPECT_EQ(file().kind(2), "code");
  kinds = {0, 1, 2};
  EXPECT_EQ(without_path([&] { file(); }), ": prompt 2: its kind is 2, outside the 2 names");
  kinds = {0, 1};
  EXPECT_EQ(without_path([&] { file(); }), ": dataset kind has 2 elements, there are 3 prompts");
}

TEST_F(PromptsFileTest, ADataFileIsRefused) {
  EXPECT_EQ(without_path([&] { file(true); }),
            " is a data file for training, it has a loss_mask; scripts/prepare_data.py --prompts makes prompts");
}

TEST_F(PromptsFileTest, AnEmptyPromptIsNamed) {
  parts.offsets = {0, 1, 1, 6};
  EXPECT_EQ(without_path([&] { file(); }), ": prompt 1 lies at 1 to 1: a prompt must have at least 1 token");
}

TEST_F(PromptsFileTest, ATokenOutsideTheVocabularyIsNamed) {
  parts.tokens[2] = 100;
  const PromptsFile prompts = file();
  EXPECT_EQ(without_path([&] { prompts.prompt(1); }), ": prompt 1: token 1 is 100, outside the vocabulary of 100");
}

}  // namespace
}  // namespace mtp::data
