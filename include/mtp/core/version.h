#pragma once

#include <string>
#include <string_view>

namespace mtp {

/// What `--version` prints: program, version, git revision, and a line for each library that this module uses.
std::string version_text(std::string_view program);

}  // namespace mtp
