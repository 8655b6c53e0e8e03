#pragma once

#include <filesystem>

namespace mtp {

/// Throws Error where a path names something other than a regular file: opening a pipe would wait for ever, reading a
/// directory fails late. Whether there is anything at all is left to the one who opens it.
void check_is_file(const std::filesystem::path& path);

/// Waits until a file, or a folder's list of names, is on the disk. Throws Error where it could not be written.
void sync_to_disk(const std::filesystem::path& path);

/// Gives a folder the name of another, which is removed. At no time is there neither: the two change names in one step,
/// or, where the file system cannot do that, the other waits as TO.replaced until the new one has its name.
void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace mtp
