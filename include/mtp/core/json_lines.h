#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "mtp/core/json.h"

namespace mtp {

/// Calls `see` with every line of a file of JSON lines and its value, until it returns false. A line that is not whole,
/// as a killed program leaves it, ends the reading. A file that is not there has no lines.
void read_json_lines(const std::filesystem::path& path,
                     const std::function<bool(const std::string& line, const Json& value)>& see);

}  // namespace mtp
