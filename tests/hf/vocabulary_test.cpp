// What tokens look like, of both kinds of vocabulary.

#include "mtp/hf/vocabulary.h"

#include <gtest/gtest.h>

#include "mtp/core/json.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

class VocabularyTest : public testing::Test {
 protected:
  std::string text_of(const Json& tokenizer, const std::vector<std::int64_t>& ids) const {
    write_json(dir.path() / "tokenizer.json", tokenizer);
    return Vocabulary(dir.path()).text(ids);
  }
  static Json decoder(const char* type) {
    return {{"type", "Sequence"}, {"decoders", {{{"type", "Replace"}}, {{"type", type}}, {{"type", "Fuse"}}}}};
  }

  test::TempDir dir;
};

TEST_F(VocabularyTest, GemmasHasSpacesAndBytes) {
  const Json tokenizer = {
      {"model", {{"vocab", {{"<bos>", 0}, {"\u2581Hello", 1}, {"<0xC3>", 2}, {"<0xBC>", 3}, {"\n", 4}}}}},
      {"decoder", decoder("ByteFallback")},
      {"added_tokens", {{{"id", 6}, {"content", "<|turn>"}}}}};
  EXPECT_EQ(text_of(tokenizer, {0, 6, 1, 2, 3, 4, 5, 7, -1}), "<bos><|turn> Hello\u00fc\n<id 5><id 7><id -1>");
}

TEST_F(VocabularyTest, AByteLevelOneHasACharacterForEveryByte) {
  const Json tokenizer = {{"model", {{"vocab", {{"\u0120Hello", 0}, {"\u00c3\u00bc", 1}, {"\u010a", 2}}}}},
                          {"decoder", {{"type", "ByteLevel"}}}};
  EXPECT_EQ(text_of(tokenizer, {0, 1, 2}), " Hello\u00fc\n");
}

TEST_F(VocabularyTest, AnotherKindIsNamed) {
  const auto refusal = [&](const Json& tokenizer) { return test::error_of([&] { text_of(tokenizer, {}); }); };
  EXPECT_NE(refusal({{"model", {{"vocab", Json::object()}}}, {"decoder", {{"type", "WordPiece"}}}})
                .find("has a decoder of another kind"),
            std::string::npos);
  EXPECT_NE(refusal({{"model", 3}, {"decoder", decoder("ByteFallback")}}).find("is no tokenizer"), std::string::npos);
}

}  // namespace
}  // namespace mtp::hf
