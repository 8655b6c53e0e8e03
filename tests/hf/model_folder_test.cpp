#include "mtp/hf/model_folder.h"

#include <gtest/gtest.h>

#include <fstream>

#include "mtp/hf/safetensors.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

namespace fs = std::filesystem;

class ModelFolderTest : public testing::Test {
 protected:
  fs::path file(const std::string& name, const std::string& content = "x") {
    const fs::path path = dir.path() / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << content;
    return path;
  }
  /// What is said of a path, without the path.
  static std::string said_of(const fs::path& path) {
    const std::string message = test::error_of([&] { check_model_folder(path); });
    return message.starts_with(path.string() + ": ") ? message.substr(path.string().size() + 2) : message;
  }

  test::TempDir dir;
};

TEST_F(ModelFolderTest, ANameOnTheHubIsToBeDownloaded) {
  EXPECT_EQ(test::error_of([] { check_model_folder("somebody/some-model"); }),
            "somebody/some-model: is no folder; download the model (hf download somebody/some-model --local-dir …) and "
            "name its folder");
}

TEST_F(ModelFolderTest, AnAdapterIsToBeMerged) {
  EXPECT_EQ(said_of(file("adapter/adapter_config.json").parent_path()),
            "holds an adapter, not a model; merge it into its base first (PEFT's merge_and_unload)");
}

TEST_F(ModelFolderTest, OtherFormatsAreNamed) {
  const std::string folder = "name the folder that has a model's config.json and safetensors files";
  EXPECT_EQ(said_of(file("model.gguf")), "is a GGUF file, which cannot be trained; " + folder);
  EXPECT_EQ(said_of(file("data.arrow")), "holds data, not a model; " + folder);
  EXPECT_EQ(said_of(file("model.safetensors")), "is a file; " + folder);
  EXPECT_EQ(said_of(file("gguf/model.gguf").parent_path()),
            "holds GGUF files only, which cannot be trained; " + folder);
  EXPECT_EQ(said_of(file("torch/pytorch_model.bin").parent_path()),
            "holds weights as PyTorch's .bin only; save the model as safetensors (save_pretrained)");
}

TEST_F(ModelFolderTest, AModelWithOtherFilesBesideItIsAModel) {
  file("model/adapter_config.json");
  file("model/config.json");
  file("model/pytorch_model.bin");
  EXPECT_EQ(said_of(file("model/model.safetensors").parent_path()), "no error");
}

TEST_F(ModelFolderTest, APointerOfGitLfsIsToBePulled) {
  const fs::path path = file("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
  EXPECT_EQ(test::error_of([&] { TensorFiles::open_file(path); }),
            path.string() + ": is a Git LFS pointer, not the file itself; run git lfs pull in its repository");
}

}  // namespace
}  // namespace mtp::hf
