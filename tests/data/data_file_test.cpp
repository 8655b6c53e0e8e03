#include "mtp/data/data_file.h"

#include <gmock/gmock.h>

#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/write_data.h"

namespace mtp::data {
namespace {

using testing::ElementsAre;

class DataFileTest : public testing::Test {
 protected:
  DataFileTest() {
    parts.add({5, 6, 7, 8}, {0, 1, 0, 1});
    parts.add({9, 10});
    parts.add({11, 12, 13});
  }
  DataFile file() {
    test::write_data(path, parts);
    return DataFile(path);
  }
  /// What opening the file says, without the path in front.
  std::string refusal() {
    return without_path([&] { file(); });
  }
  template <typename Action>
  std::string without_path(Action action) {
    const std::string message = test::error_of(action), where = path.string();
    return message.starts_with(where) ? message.substr(where.size()) : message;
  }

  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "data.h5";
  test::DataParts parts;
};

TEST_F(DataFileTest, GivesSamplesWithTheirTargets) {
  const DataFile data = file();
  EXPECT_EQ(data.samples(), 3);
  EXPECT_EQ(data.vocab_size(), 100);
  EXPECT_EQ(data.pad_token_id(), 0);
  EXPECT_EQ(data.tokenizer(), std::nullopt);
  EXPECT_THAT(data.sample(0).tokens, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(data.sample(0).is_target, ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(data.sample(2).tokens, ElementsAre(11, 12, 13));
  EXPECT_EQ(data.length(2), 3);
  EXPECT_EQ(data.longest(), 3);
}

TEST_F(DataFileTest, MaxLengthCutsSamples) {
  const DataFile data = file();
  EXPECT_THAT(data.sample(0, 3).tokens, ElementsAre(5, 6, 7));
  EXPECT_THAT(data.sample(0, 3).is_target, ElementsAre(0, 1, 0));
  EXPECT_THAT(data.sample(1, 3).tokens, ElementsAre(9, 10));
  EXPECT_EQ(data.length(0, 3), 3);
  EXPECT_EQ(data.longest(2), 1);
}

TEST_F(DataFileTest, SummaryCountsEverySample) {
  const Summary summary = file().check_all();
  EXPECT_EQ(summary.samples, 3);
  EXPECT_EQ(summary.tokens, 9);
  EXPECT_EQ(summary.targets, 2 + 1 + 2);
  EXPECT_EQ(summary.min_length, 2);
  EXPECT_EQ(summary.max_length, 4);
  EXPECT_EQ(summary.mean_length, 3.0);
}

TEST_F(DataFileTest, OtherFormatsAndVersionsAreRefused) {
  parts.format = "other";
  EXPECT_EQ(refusal(), " is not a data file: its attribute format must be mtp-data");
  parts.format = "mtp-data";
  parts.version = 2;
  EXPECT_EQ(refusal(), " is a data file of version 2, this program reads version 1");
  hdf5::File::create(path).close();
  EXPECT_EQ(without_path([&] { DataFile{path}; }), " is not a data file: its attribute format must be mtp-data");
}

TEST_F(DataFileTest, AnEmptyFileIsRefused) {
  parts = {};
  EXPECT_EQ(refusal(), " has no samples");
}

TEST_F(DataFileTest, BrokenOffsetsAreRefusedWithTheSample) {
  parts.offsets = {1, 4, 6, 9};
  EXPECT_EQ(refusal(), ": offsets start at 1, not at 0");
  parts.offsets = {0, 4, 3, 9};
  EXPECT_EQ(refusal(), ": sample 1 lies at 4 to 3: a sample must have at least 2 tokens");
  parts.offsets = {0, 4, 8, 9};
  EXPECT_EQ(refusal(), ": sample 2 lies at 8 to 9: a sample must have at least 2 tokens");
  parts.offsets = {0, 4, 6, 10};
  EXPECT_EQ(refusal(), ": dataset tokens has 9 elements, offsets end at 10");
}

TEST_F(DataFileTest, AMaskOfAnotherLengthIsRefused) {
  parts.loss_mask.pop_back();
  EXPECT_EQ(refusal(), ": dataset loss_mask has 8 elements, offsets end at 9");
}

TEST_F(DataFileTest, AVocabularyWithoutThePadTokenIsRefused) {
  parts.pad_token_id = 100;
  EXPECT_EQ(refusal(), ": attribute pad_token_id is 100, outside the vocabulary of 100");
  parts.vocab_size = 0;
  EXPECT_EQ(refusal(), ": attribute vocab_size is 0, it must be at least 1");
}

TEST_F(DataFileTest, AMissingDatasetIsNamed) {
  hdf5::File out = hdf5::File::create(path);
  out.set_attribute("format", "mtp-data");
  out.set_attribute("version", std::int64_t{1});
  out.set_attribute("vocab_size", std::int64_t{100});
  out.set_attribute("pad_token_id", std::int64_t{0});
  test::write_dataset(out, "tokens", parts.tokens);
  out.close();
  EXPECT_EQ(without_path([&] { DataFile{path}; }), " has no dataset offsets");
}

TEST_F(DataFileTest, ATokenOutsideTheVocabularyIsFoundWhenItsSampleIsRead) {
  for (const std::int32_t token : {100, -1}) {
    parts.tokens[5] = token;
    const DataFile data = file();
    EXPECT_THAT(data.sample(0).tokens, ElementsAre(5, 6, 7, 8));
    const std::string message = fmt::format(": sample 1: token 1 is {}, outside the vocabulary of 100", token);
    EXPECT_EQ(without_path([&] { data.sample(1); }), message);
    EXPECT_EQ(without_path([&] { data.check_all(); }), message);
  }
}

TEST_F(DataFileTest, AMaskOtherThanZeroAndOneIsFoundWhenItsSampleIsRead) {
  parts.loss_mask[8] = 2;
  EXPECT_EQ(without_path([&] { file().sample(2); }), ": sample 2: loss_mask of token 2 is 2, it must be 0 or 1");
}

}  // namespace
}  // namespace mtp::data
