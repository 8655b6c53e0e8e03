#pragma once

#include <filesystem>

namespace mtp::apps {

/// Prints what a checkpoint holds, with `tensors` each of them, and verifies all of it. Throws Error where it is
/// damaged.
void inspect_checkpoint(const std::filesystem::path& path, bool tensors);

/// Prints the checkpoints of a run and verifies all of them. Throws Error where one is damaged.
void inspect_run(const std::filesystem::path& path);

}  // namespace mtp::apps
