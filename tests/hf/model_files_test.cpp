#include "mtp/hf/model_files.h"

#include <gmock/gmock.h>

namespace mtp::hf {
namespace {

using testing::ElementsAre;

std::vector<std::string> names_in(const ModelFile& file) {
  std::vector<std::string> names;
  for (const TensorEntry& tensor : file.tensors) names.push_back(tensor.name);
  return names;
}

const std::vector<TensorEntry> four_tensors = {
    {"a", "BF16", {3}}, {"b", "F32", {2, 2}}, {"c", "I64", {1}}, {"d", "F32", {1}}};  // 6, 16, 8 and 4 bytes

TEST(ModelFilesTest, AModelThatFitsIsOneFileWithLargerElementsFirst) {
  const auto files = split_into_files(four_tensors, 34);
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].name, "model.safetensors");
  EXPECT_THAT(names_in(files[0]), ElementsAre("c", "b", "d", "a"));
}

TEST(ModelFilesTest, ALargerModelIsSplitBetweenTensors) {
  const auto files = split_into_files(four_tensors, 22);
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].name, "model-00001-of-00002.safetensors");
  EXPECT_THAT(names_in(files[0]), ElementsAre("b", "a"));
  EXPECT_EQ(files[1].name, "model-00002-of-00002.safetensors");
  EXPECT_THAT(names_in(files[1]), ElementsAre("c", "d"));
}

TEST(ModelFilesTest, ATensorLargerThanAFileHasOneOfItsOwn) {
  const auto files = split_into_files(four_tensors, 10);
  ASSERT_EQ(files.size(), 4u);
  EXPECT_THAT(names_in(files[0]), ElementsAre("a"));
  EXPECT_THAT(names_in(files[1]), ElementsAre("b"));
  EXPECT_THAT(names_in(files[2]), ElementsAre("c"));
  EXPECT_THAT(names_in(files[3]), ElementsAre("d"));
}

TEST(ModelFilesTest, TheIndexNamesTheFileOfEveryTensorAndTheBytesOfAll) {
  EXPECT_EQ(index_of(split_into_files(four_tensors, 22)), Json::parse(R"({
    "metadata": {"total_size": 34},
    "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors",
                   "c": "model-00002-of-00002.safetensors", "d": "model-00002-of-00002.safetensors"}})"));
}

TEST(ModelFilesTest, TheElementTypeIsSetWhereverAConfigurationHasIt) {
  Json config = Json::parse(R"({"torch_dtype": "float16", "text_config": {"dtype": "bfloat16", "hidden_size": 8},
                                "vision_config": {"torch_dtype": "bfloat16"}, "audio_config": null,
                                "text": {"dtype": "bfloat16"}})");
  set_dtype(config, "float32");
  EXPECT_EQ(config, Json::parse(R"({"dtype": "float32", "torch_dtype": "float32",
                                    "text_config": {"dtype": "float32", "hidden_size": 8},
                                    "vision_config": {"torch_dtype": "float32"}, "audio_config": null,
                                    "text": {"dtype": "bfloat16"}})"));
}

}  // namespace
}  // namespace mtp::hf
