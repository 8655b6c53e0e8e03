#pragma once

#include <cstdint>
#include <filesystem>

namespace mtp::apps {

/// Says what a data file holds, and reads and checks all of it.
void inspect_data(const std::filesystem::path& path);

/// Sample `number` as ids, or as text where `tokenizer` is a Hugging Face directory. Its runs of targets are in ⟦ ⟧;
/// its images are written to the folder `images` as PNG files, whose names stand where their tokens do.
void print_sample(const std::filesystem::path& path, std::int64_t number, const std::filesystem::path& tokenizer,
                  const std::filesystem::path& images);

}  // namespace mtp::apps
