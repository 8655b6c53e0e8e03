#include "mtp/checkpoint/manifest.h"

#include <gmock/gmock.h>

#include <fstream>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::checkpoint {
namespace {

using test::error_of;
using testing::HasSubstr;

class ManifestTest : public testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(dir.path() / "state.h5") << "state";
    manifest.add_file(dir.path(), dir.path() / "state.h5");
    manifest.add_rank(to_json({100, "a"}, {{"parameters/x", {0, 0, 4, 32, {"b"}}}}));
    manifest.add_rank(to_json({200, "c"}, {{"parameters/x", {1, 4, checksum_block + 1, 64, {"d", "e"}}}}));
  }
  std::string error_with(const std::string& word, const std::string& other) {
    manifest.write(path);
    Json json = read_json(path);
    std::string text = json.dump();
    text.replace(text.find(word), word.size(), other);
    std::ofstream(path) << text;
    return error_of([&] { Manifest::read(path); });
  }

  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "checksums.json";
  Manifest manifest;
};

TEST_F(ManifestTest, IsReadAsItWasWritten) {
  manifest.write(path);
  const Manifest read = Manifest::read(path);
  ASSERT_EQ(read.ranks(), 2);
  EXPECT_EQ(read.rank_files[1].layout_checksum, "c");
  const std::vector<Part>& parts = read.tensors.at("parameters/x");
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[1].begin, 4);
  EXPECT_EQ(parts[1].elements, checksum_block + 1);
  EXPECT_EQ(parts[1].position, 64);
  EXPECT_EQ(parts[1].checksums, (std::vector<std::string>{"d", "e"}));
  EXPECT_EQ(error_of([&] { verify_file(dir.path(), "state.h5", read); }), "no error");
}

TEST_F(ManifestTest, DamageIsNamed) {
  EXPECT_THAT(error_with("\"begin\":4", "\"begin\":5"), HasSubstr("do not follow on 4"));
  EXPECT_THAT(error_with("\"elements\":4", "\"elements\":-"), HasSubstr("no valid JSON"));
  EXPECT_THAT(error_with("\"position\"", "\"positiom\""), HasSubstr("does not list a checkpoint"));
  EXPECT_THAT(error_with("mtp-checksums", "mtp-checksumz"), HasSubstr("another format"));
}

TEST_F(ManifestTest, AFileThatIsOtherThanWrittenIsNamed) {
  const auto error = [&] { return error_of([&] { verify_file(dir.path(), "state.h5", manifest); }); };
  std::ofstream(dir.path() / "state.h5") << "statf";
  EXPECT_THAT(error(), HasSubstr("state.h5: its checksum is not"));
  std::ofstream(dir.path() / "state.h5") << "stat";
  EXPECT_THAT(error(), HasSubstr("has 4 bytes, 5 were written"));
  std::filesystem::remove(dir.path() / "state.h5");
  EXPECT_THAT(error(), HasSubstr("state.h5: is missing"));
}

}  // namespace
}  // namespace mtp::checkpoint
