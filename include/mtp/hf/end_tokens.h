#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace mtp::hf {

/// The tokens that end a text: `eos_token_id` of generation_config.json, or where that file or its key is missing, of
/// config.json (or its text_config). A number, a list, or none. Throws Error that names the file.
std::vector<std::int64_t> read_end_tokens(const std::filesystem::path& directory);

}  // namespace mtp::hf
