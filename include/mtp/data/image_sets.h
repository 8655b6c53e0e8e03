#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/data/media_sets.h"
#include "mtp/ops/patch_grids.h"

namespace mtp::data {

/// What a base takes of an image.
struct VisionInput {
  std::int64_t image_token_id = 0;
  std::int64_t patches_per_token = 0;  // 9; 1 in the unified family
  std::int64_t patch_bytes = 0;        // 3 · side² pixels
  std::int64_t positions = 0;          // patches that an image may be wide or high
};

/// Images on the host, packed one after another, and where their soft tokens go.
struct Images {
  ops::PatchGrids grids;
  std::vector<std::uint8_t> patches;  // [grids.rows(), patch bytes] as in the file
  std::vector<std::int64_t> rows;     // [soft tokens] the row whose input each of them is, image after image
};

/// The images of a file's lists:
///
///   attributes     image_token_id, patches_per_image_token
///   patches        [P, 3·side²] uint8  pixels (row, column, channel) of all images' patches, as PatchGrids packs them
///   image_sizes    [I, 2] int32        width and height of each image in patches
///   image_offsets  [I+1] int64         image i has patches image_offsets[i] … image_offsets[i+1] - 1
///   sample_images  [N+1] int64         list n has images sample_images[n] … sample_images[n+1] - 1
///
/// A list has the image token once for each of its images' soft tokens, image after image. Opening checks everything
/// but that, which is checked when the list is read. Throws Error in one line that names the file and the list or
/// image. May be used by several threads.
class ImageSets final : public MediaSets {
 public:
  /// Nothing of a file without images.
  static std::optional<ImageSets> of(const TokenLists& lists);

  std::int64_t patches() const { return elements(); }
  std::int64_t patch_bytes() const { return patches_.shape()[1]; }
  std::int64_t patches_per_token() const { return patches_per_token_; }

  ops::PatchGrids::Size size(std::int64_t image) const { return {sizes_[2 * image], sizes_[2 * image + 1]}; }
  std::int64_t soft_tokens(std::int64_t image) const override { return size(image).patches() / patches_per_token_; }

  /// [size(image).patches(), patch_bytes]
  std::vector<std::uint8_t> read(std::int64_t image) const;

  /// Appends the first `shown` images of list i, whose `inputs` are rows `row`, row + 1, ….
  void append(std::int64_t i, std::int64_t shown, std::span<const std::int32_t> inputs, std::int64_t row,
              Images& images) const;

  /// Throws Error unless a base takes all of them.
  void check_base(const std::filesystem::path& directory, const std::optional<VisionInput>& base) const;

 private:
  explicit ImageSets(const TokenLists& lists);
  void check_sizes() const;

  std::int64_t patches_per_token_;
  std::vector<std::int32_t> sizes_;
  hdf5::Dataset patches_;
};

}  // namespace mtp::data
