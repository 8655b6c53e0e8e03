#include "mtp/data/prompts_file.h"

#include "mtp/core/error.h"

namespace mtp::data {

PromptsFile::PromptsFile(const std::filesystem::path& path)
    : lists_(path, {.item = "prompt", .use = "decoded", .shortest = 1}) {
  if (lists_.file().exists("loss_mask"))
    throw Error("{} is a data file for training, it has a loss_mask; scripts/prepare_data.py --prompts makes prompts",
                path.string());
}

std::vector<std::int64_t> PromptsFile::prompt(std::int64_t i, std::span<const std::int64_t> refused) const {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(lists_.length(i)));
  lists_.read(i, tokens, refused);
  return {tokens.begin(), tokens.end()};
}

}  // namespace mtp::data
