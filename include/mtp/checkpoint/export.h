#pragma once

#include <filesystem>

namespace mtp::checkpoint {

/// Writes OUT/base/model/consolidated and OUT/drafter/model/consolidated from a checkpoint, in the source's element
/// types, for Hugging Face's `from_pretrained`. Written under a temporary name and renamed. Throws Error where `out`
/// exists or the checkpoint is not whole.
void export_hf(const std::filesystem::path& checkpoint, const std::filesystem::path& out);

}  // namespace mtp::checkpoint
