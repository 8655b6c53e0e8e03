#pragma once

#include <filesystem>

namespace mtp {

/// Throws Error where a path names something other than a regular file: opening a pipe would wait for ever, reading a
/// directory fails late. Whether there is anything at all is left to the one who opens it.
void check_is_file(const std::filesystem::path& path);

}  // namespace mtp
