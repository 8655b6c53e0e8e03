#include "mtp/data/prompts_file.h"

#include <sstream>

#include "mtp/core/error.h"

namespace mtp::data {
namespace {

std::vector<std::string> read_kinds(const TokenLists& lists) {
  if (!lists.file().exists("kind")) return {};
  const hdf5::Dataset dataset = open_list(lists.file(), lists.path(), "kind");
  const auto numbers = dataset.read_all<std::int32_t>();
  if (std::ssize(numbers) != lists.count())
    throw Error("{}: dataset kind has {} elements, there are {} prompts", lists.path().string(), numbers.size(),
                lists.count());
  std::istringstream lines(dataset.attribute<std::string>("names"));
  std::vector<std::string> names, kinds;
  for (std::string name; std::getline(lines, name);) names.push_back(name);
  for (const std::int32_t number : numbers) {
    if (number < 0 || number >= std::ssize(names))
      throw Error("{}: prompt {}: its kind is {}, outside the {} names", lists.path().string(), kinds.size(), number,
                  names.size());
    kinds.push_back(names[number]);
  }
  return kinds;
}

}  // namespace

PromptsFile::PromptsFile(const std::filesystem::path& path)
    : lists_(path, {.item = "prompt", .use = "decoded", .shortest = 1}),
      kinds_(read_kinds(lists_)),
      images_(ImageSets::of(lists_)),
      audio_(AudioSets::of(lists_)) {
  if (lists_.file().exists("loss_mask"))
    throw Error("{} is a data file for training, it has a loss_mask; scripts/prepare_data.py --prompts makes prompts",
                path.string());
}

std::vector<std::int64_t> PromptsFile::prompt(std::int64_t i, std::span<const std::int64_t> refused) const {
  const std::vector<std::int32_t> read = tokens(i, refused);
  return {read.begin(), read.end()};
}

Images PromptsFile::images(std::int64_t i) const {
  Images images;
  if (!images_) return images;
  const std::vector<std::int32_t> inputs = tokens(i, {});
  images_->append(i, images_->shown(i, inputs, std::nullopt, false), inputs, 0, images);
  return images;
}

Clips PromptsFile::clips(std::int64_t i) const {
  Clips clips;
  if (!audio_) return clips;
  const std::vector<std::int32_t> inputs = tokens(i, {});
  audio_->append(i, audio_->shown(i, inputs, std::nullopt, false), inputs, 0, clips);
  return clips;
}

std::vector<std::int32_t> PromptsFile::tokens(std::int64_t i, std::span<const std::int64_t> refused) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(lists_.length(i)));
  std::vector<std::int64_t> of_no_media(refused.begin(), refused.end());
  if (images_) std::erase(of_no_media, images_->token_id());
  if (audio_) std::erase(of_no_media, audio_->token_id());
  lists_.read(i, tokens, of_no_media);
  return tokens;
}

}  // namespace mtp::data
