#include "mtp/data/image_sets.h"

#include <algorithm>
#include <cmath>

#include "mtp/core/error.h"

namespace mtp::data {
namespace {

// Where things begin, from 0 on and never backwards; the last is how many there are.
std::vector<std::int64_t> read_begins(const TokenLists& lists, const std::string& name) {
  auto begins = open_list(lists.file(), lists.path(), name).read_all<std::int64_t>();
  const std::string where = lists.path().string();
  if (begins.size() < 2)
    throw Error("{}: dataset {} has {} elements, at least 2 are needed", where, name, begins.size());
  if (begins.front() != 0) throw Error("{}: {} starts at {}, not at 0", where, name, begins.front());
  if (const auto back = std::ranges::is_sorted_until(begins); back != begins.end())
    throw Error("{}: {} goes back from {} to {} at element {}", where, name, back[-1], *back, back - begins.begin());
  return begins;
}

hdf5::Dataset open_table(const TokenLists& lists, const std::string& name, std::int64_t rows) {
  hdf5::Dataset dataset = lists.file().dataset(name);
  if (dataset.shape().size() != 2 || dataset.shape()[0] != rows || dataset.shape()[1] < 1)
    throw Error("{}: dataset {} must have two dimensions and {} rows", lists.path().string(), name, rows);
  dataset.check_is_stored();
  return dataset;
}

std::vector<std::int32_t> read_sizes(const TokenLists& lists, std::int64_t images) {
  const hdf5::Dataset sizes = open_table(lists, "image_sizes", images);
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
    : where_(lists.path().string()),
      item_(lists.kind().item),
      image_token_id_(lists.file().attribute<std::int64_t>("image_token_id")),
      patches_per_token_(lists.file().attribute<std::int64_t>("patches_per_image_token")),
      offsets_(read_begins(lists, "image_offsets")),
      lists_(read_begins(lists, "sample_images")),
      sizes_(read_sizes(lists, count())),
      patches_(open_table(lists, "patches", patches())) {
  if (image_token_id_ < 0 || image_token_id_ >= lists.vocab_size())
    throw Error("{}: attribute image_token_id is {}, outside the vocabulary of {}", where_, image_token_id_,
                lists.vocab_size());
  if (std::ssize(lists_) != lists.count() + 1)
    throw Error("{}: sample_images has {} elements, {} {}s need {}", where_, lists_.size(), lists.count(), item_,
                lists.count() + 1);
  if (lists_.back() != count())
    throw Error("{}: sample_images ends at {}, the file has {} images", where_, lists_.back(), count());
  check_sizes();
}

void ImageSets::check_sizes() const {
  const auto side = static_cast<std::int64_t>(std::lround(std::sqrt(static_cast<double>(patches_per_token_))));
  if (patches_per_token_ < 1 || side * side != patches_per_token_)
    throw Error("{}: attribute patches_per_image_token is {}, it must be a square", where_, patches_per_token_);
  for (std::int64_t i = 0; i < count(); ++i) {
    const auto [width, height] = size(i);
    if (width < 1 || height < 1 || width % side != 0 || height % side != 0)
      throw Error("{}: image {} is {} × {} patches; both must be multiples of {}", where_, i, width, height, side);
    if (offsets_[i + 1] - offsets_[i] != width * height)
      throw Error("{}: image {} is {} × {} patches, image_offsets give it {}", where_, i, width, height,
                  offsets_[i + 1] - offsets_[i]);
  }
}

std::int64_t ImageSets::shown(std::int64_t i, std::span<const std::int32_t> inputs, std::optional<std::int32_t> label,
                              bool is_cut) const {
  const std::int64_t tokens = std::ranges::count(inputs, image_token_id_), images = first(i + 1) - first(i);
  std::int64_t shown = 0, soft = 0;
  while (shown < images && soft < tokens) soft += soft_tokens(first(i) + shown++);
  if (is_cut && (soft > tokens || (label && *label == image_token_id_)))
    throw Error("{}: {} {}: data.max_length cuts through an image, cut it elsewhere", where_, item_, i);
  if (soft != tokens || (label && *label == image_token_id_) || (!is_cut && shown < images))
    throw Error("{}: {} {}: its image tokens are not those of its {} images; prepare the file anew", where_, item_, i,
                images);
  return shown;
}

std::vector<std::int64_t> ImageSets::refused_beside(const std::optional<ImageSets>& images,
                                                    std::span<const std::int64_t> refused) {
  std::vector<std::int64_t> others(refused.begin(), refused.end());
  if (images) std::erase(others, images->image_token_id());
  return others;
}

std::vector<std::uint8_t> ImageSets::read(std::int64_t image) const {
  std::vector<std::uint8_t> patches(size(image).patches() * patch_bytes());
  patches_.read(offsets_[image], std::span(patches));
  return patches;
}

void ImageSets::append(std::int64_t i, std::int64_t shown, std::span<const std::int32_t> inputs, std::int64_t row,
                       Images& images) const {
  for (std::int64_t image = first(i); image < first(i) + shown; ++image) {
    images.grids.add(size(image));
    const std::vector<std::uint8_t> patches = read(image);
    images.patches.insert(images.patches.end(), patches.begin(), patches.end());
  }
  for (std::size_t t = 0; t < inputs.size(); ++t)
    if (inputs[t] == image_token_id_) images.rows.push_back(row + static_cast<std::int64_t>(t));
}

void ImageSets::check_base(const std::filesystem::path& directory, const std::optional<VisionInput>& base) const {
  if (!base)
    throw Error("{} has images, which the base {} does not take: it has no vision_config", where_, directory.string());
  if (image_token_id_ != base->image_token_id || patches_per_token_ != base->patches_per_token ||
      patch_bytes() != base->patch_bytes)
    throw Error(
        "{}: made for image token {}, {} patches a token and {} bytes a patch, the base has {}, {} and {}; prepare it "
        "with the base's image processor",
        where_, image_token_id_, patches_per_token_, patch_bytes(), base->image_token_id, base->patches_per_token,
        base->patch_bytes);
  for (std::int64_t i = 0; i < count(); ++i)
    if (const auto [width, height] = size(i); std::max(width, height) > base->positions)
      throw Error("{}: image {} is {} × {} patches, the base has positions for {}; leave it out or make it smaller",
                  where_, i, width, height, base->positions);
}

}  // namespace mtp::data
