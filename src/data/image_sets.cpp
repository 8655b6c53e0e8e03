#include "mtp/data/image_sets.h"

#include <algorithm>
#include <cmath>

#include "mtp/core/error.h"

namespace mtp::data {
namespace {

std::vector<std::int32_t> read_sizes(const TokenLists& lists, const hdf5::Dataset& sizes) {
  if (sizes.shape()[1] != 2)
    throw Error("{}: dataset image_sizes must have a width and a height a row", lists.path().string());
  return sizes.read_all<std::int32_t>();
}

}  // namespace

std::optional<ImageSets> ImageSets::of(const TokenLists& lists) {
  for (const char* name : {"patches", "image_sizes", "image_offsets", "sample_images"})
    if (lists.file().exists(name)) return ImageSets(lists);
  return std::nullopt;
}

ImageSets::ImageSets(const TokenLists& lists)
    : MediaSets(lists, {.name = "image", .one = "an image", .many = "images"}),
      patches_per_token_(lists.file().attribute<std::int64_t>("patches_per_image_token")),
      sizes_(read_sizes(lists, open_table(lists, "image_sizes", count()))),
      patches_(open_table(lists, "patches", patches())) {
  check_sizes();
}

void ImageSets::check_sizes() const {
  const auto side = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(patches_per_token_))));
  if (patches_per_token_ < 1 || side * side != patches_per_token_)
    throw Error("{}: attribute patches_per_image_token is {}, it must be a square", where(), patches_per_token_);
  for (std::int64_t i = 0; i < count(); ++i) {
    const auto [width, height] = size(i);
    if (width < 1 || height < 1 || width % side != 0 || height % side != 0)
      throw Error("{}: image {} is {} × {} patches; both must be multiples of {}", where(), i, width, height, side);
    if (elements(i) != width * height)
      throw Error("{}: image {} is {} × {} patches, image_offsets give it {}", where(), i, width, height, elements(i));
  }
}

std::vector<std::uint8_t> ImageSets::read(std::int64_t image) const {
  std::vector<std::uint8_t> patches(size(image).patches() * patch_bytes());
  patches_.read(offset(image), std::span(patches));
  return patches;
}

void ImageSets::append(std::int64_t i, std::int64_t shown, std::span<const std::int32_t> inputs, std::int64_t row,
                       Images& images) const {
  for (std::int64_t image = first(i); image < first(i) + shown; ++image) {
    images.grids.add(size(image));
    const std::vector<std::uint8_t> patches = read(image);
    images.patches.insert(images.patches.end(), patches.begin(), patches.end());
  }
  append_rows(inputs, row, images.rows);
}

void ImageSets::check_base(const std::filesystem::path& directory, const std::optional<VisionInput>& base) const {
  if (!base)
    throw Error("{} has images, which the base {} does not take: it has no vision_config", where(), directory.string());
  if (token_id() != base->image_token_id || patches_per_token_ != base->patches_per_token ||
      patch_bytes() != base->patch_bytes)
    throw Error(
        "{}: made for image token {}, {} patches a token and {} bytes a patch, the base has {}, {} and {}; prepare it "
        "with the base's image processor",
        where(), token_id(), patches_per_token_, patch_bytes(), base->image_token_id, base->patches_per_token,
        base->patch_bytes);
  for (std::int64_t i = 0; i < count(); ++i)
    if (const auto [width, height] = size(i); std::max(width, height) > base->positions)
      throw Error("{}: image {} is {} × {} patches, the base has positions for {}; leave it out or make it smaller",
                  where(), i, width, height, base->positions);
}

}  // namespace mtp::data
