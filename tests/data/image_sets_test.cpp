#include "mtp/data/image_sets.h"

#include <gmock/gmock.h>

#include <functional>

#include "mtp/data/batch.h"
#include "mtp/data/prompts_file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "support/write_data.h"

namespace mtp::data {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr std::int32_t image = 90;

class ImageSetsTest : public testing::Test {
 protected:
  /// Text; an image of 1 soft token; images of 2 and 3, the second at the end of what is given to the model.
  ImageSetsTest() {
    parts.add({5, 6});
    parts.add_image(2, 2, 10);
    parts.add({image, 7, 8}, {0, 0, 1});
    parts.add_image(4, 2, 20);
    parts.add_image(2, 6, 30);
    parts.add({5, image, image, 6, image, image, image, 9}, {0, 0, 0, 0, 0, 0, 0, 1});
  }
  DataFile file() {
    test::write_data(path, parts);
    return DataFile(path);
  }
  std::string refusal(const std::function<void(const DataFile&)>& use = [](const DataFile&) {}) {
    const std::string message = test::error_of([&] { use(file()); }), where = path.string();
    return message.starts_with(where) ? message.substr(where.size()) : message;
  }
  std::string refusal_of_sample(std::int64_t i, std::int64_t max_length = 0) {
    return refusal([&](const DataFile& data) { data.sample(i, max_length); });
  }

  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "data.h5";
  test::DataParts parts;
};

TEST_F(ImageSetsTest, AMicroBatchHasTheImagesOfItsSamplesAndTheRowsOfTheirTokens) {
  const MicroBatch batch = make_micro_batch(file(), std::vector<std::int64_t>{1, 0, 2}, {});
  EXPECT_THAT(batch.ids, ElementsAre(image, 7, 5, 5, image, image, 6, image, image, image));
  EXPECT_THAT(batch.images.rows, ElementsAre(0, 4, 5, 7, 8, 9));
  const ops::PatchGrids& grids = batch.images.grids;
  ASSERT_EQ(grids.count(), 3);
  EXPECT_EQ(grids.size(1).width, 4);
  EXPECT_EQ(grids.size(1).height, 2);
  EXPECT_EQ(grids.begin(2), 4 + 8);
  EXPECT_EQ(grids.rows(), 4 + 8 + 12);
  ASSERT_EQ(std::ssize(batch.images.patches), grids.rows() * 12);
  const std::vector<std::uint8_t>& patches = batch.images.patches;
  EXPECT_THAT(std::vector(patches.begin(), patches.begin() + 4 * 12), Each(10));
  EXPECT_THAT(std::vector(patches.begin() + 4 * 12, patches.begin() + 12 * 12), Each(20));
  EXPECT_THAT(std::vector(patches.begin() + 12 * 12, patches.end()), Each(30));
}

TEST_F(ImageSetsTest, ASampleWithoutImagesAndAFileWithoutThemGiveNone) {
  EXPECT_TRUE(make_micro_batch(file(), std::vector<std::int64_t>{0}, {}).images.grids.empty());
  parts = {};
  parts.add({image, 5});
  EXPECT_FALSE(file().images().has_value());
  EXPECT_TRUE(make_micro_batch(file(), std::vector<std::int64_t>{0}, {}).images.rows.empty());
}

TEST_F(ImageSetsTest, ImagesWhoseTokensAreCutOffAreNotRead) {
  const DataFile data = file();
  const MicroBatch batch = make_micro_batch(data, std::vector<std::int64_t>{2}, {.max_length = 4});
  EXPECT_EQ(batch.images.grids.count(), 1);
  EXPECT_THAT(batch.images.rows, ElementsAre(1, 2));
  EXPECT_EQ(data.sample(2).images, 2);
}

TEST_F(ImageSetsTest, ACutThroughAnImageIsRefused) {
  for (const std::int64_t length : {2, 3, 5, 6, 7})
    EXPECT_EQ(refusal_of_sample(2, length), ": sample 2: data.max_length cuts through an image, cut it elsewhere");
}

TEST_F(ImageSetsTest, TokensThatAreNotThoseOfTheImagesAreRefused) {
  const auto is_another = [](int sample, int images) {
    return fmt::format(": sample {}: its image tokens are not those of its {} images; prepare the file anew", sample,
                       images);
  };
  parts.tokens[parts.offsets[2] + 2] = 8;  // one too few
  EXPECT_EQ(refusal_of_sample(2), is_another(2, 2));
  parts.tokens[parts.offsets[0]] = image;  // an id without an image
  EXPECT_EQ(refusal_of_sample(0), ": sample 0: token 0 is an image's and a target, which none of these can be");
  parts.loss_mask[0] = 0;
  EXPECT_EQ(refusal_of_sample(0), is_another(0, 0));
  parts.tokens[parts.offsets[1]] = 8;  // an image without an id
  EXPECT_EQ(refusal_of_sample(1), is_another(1, 1));
  parts.tokens[parts.offsets[1]] = image;
  parts.tokens[parts.offsets[2] - 1] = image;  // the last one, which no model is given
  parts.loss_mask[parts.offsets[2] - 1] = 0;
  EXPECT_EQ(refusal_of_sample(1), is_another(1, 1));
}

TEST_F(ImageSetsTest, WhatLiesAboutItsImagesIsRefused) {
  const auto refused_with = [&](auto change) {
    const test::DataParts whole = parts;
    change();
    const std::string said = refusal();
    parts = whole;
    return said;
  };
  EXPECT_EQ(refused_with([&] { parts.image_token_id = 100; }),
            ": attribute image_token_id is 100, outside the vocabulary of 100");
  EXPECT_EQ(refused_with([&] { parts.patches_per_image_token = 3; }),
            ": attribute patches_per_image_token is 3, it must be a square");
  EXPECT_EQ(refused_with([&] { parts.image_sizes[2] = 3; }), ": image 1 is 3 × 2 patches; both must be multiples of 2");
  EXPECT_EQ(refused_with([&] { parts.image_sizes[3] = -2; }),
            ": image 1 is 4 × -2 patches; both must be multiples of 2");
  EXPECT_EQ(refused_with([&] { parts.image_sizes[2] = 6; }), ": image 1 is 6 × 2 patches, image_offsets give it 8");
  EXPECT_EQ(refused_with([&] { parts.image_offsets[1] = 13; }), ": image_offsets goes back from 13 to 12 at element 2");
  EXPECT_EQ(refused_with([&] { parts.image_offsets[0] = 1; }), ": image_offsets starts at 1, not at 0");
  EXPECT_EQ(refused_with([&] { parts.image_offsets[3] = 25; }),
            ": dataset patches must have two dimensions and 25 rows");
  EXPECT_EQ(refused_with([&] { parts.image_sizes.resize(4); }),
            ": dataset image_sizes must have two dimensions and 3 rows");
  EXPECT_EQ(refused_with([&] { parts.sample_images.pop_back(); }), ": sample_images has 3 elements, 3 samples need 4");
  EXPECT_EQ(refused_with([&] { parts.sample_images[3] = 4; }), ": sample_images ends at 4, the file has 3 images");
  EXPECT_EQ(refused_with([&] { parts.sample_images[1] = 2; }), ": sample_images goes back from 2 to 1 at element 2");
}

TEST_F(ImageSetsTest, ABaseThatDoesNotTakeTheImagesIsNamed) {
  const VisionInput base{.image_token_id = image, .patches_per_token = 4, .patch_bytes = 12, .positions = 6};
  file().check_images("b", base);
  const auto refused_by = [&](const std::optional<VisionInput>& other) {
    return refusal([&](const DataFile& data) { data.check_images("b", other); });
  };
  EXPECT_EQ(refused_by(std::nullopt), " has images, which the base b does not take: it has no vision_config");
  VisionInput other = base;
  other.patch_bytes = 27;
  EXPECT_EQ(refused_by(other),
            ": made for image token 90, 4 patches a token and 12 bytes a patch, the base has 90, 4 and 27; prepare it "
            "with the base's image processor");
  other = base;
  other.positions = 5;
  EXPECT_EQ(refused_by(other),
            ": image 2 is 2 × 6 patches, the base has positions for 5; leave it out or make it smaller");
}

TEST_F(ImageSetsTest, SummaryCountsImages) {
  const Summary summary = file().check_all();
  EXPECT_EQ(summary.images, 3);
  EXPECT_EQ(summary.patches, 24);
  EXPECT_EQ(summary.image_bytes, 24 * 12);
}

TEST_F(ImageSetsTest, PromptsShowTheirImages) {
  hdf5::File written = hdf5::File::create(path);
  written.set_attribute("format", parts.format);
  written.set_attribute("version", parts.version);
  written.set_attribute("vocab_size", parts.vocab_size);
  written.set_attribute("pad_token_id", parts.pad_token_id);
  test::write_dataset(written, "tokens", parts.tokens);
  test::write_dataset(written, "offsets", parts.offsets);
  test::write_images(written, parts);
  written.close();
  const PromptsFile prompts(path);
  EXPECT_TRUE(prompts.images(0).grids.empty());
  EXPECT_EQ(prompts.images(2).grids.count(), 2);
  EXPECT_THAT(prompts.images(2).rows, ElementsAre(1, 2, 4, 5, 6));
}

}  // namespace
}  // namespace mtp::data
