#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace mtp {

using Json = nlohmann::json;

/// Throw Error, naming the file, where it cannot be read or written, or is no JSON.
Json read_json(const std::filesystem::path& path);
void write_json(const std::filesystem::path& path, const Json& json);

}  // namespace mtp
