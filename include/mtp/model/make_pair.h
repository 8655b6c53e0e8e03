#pragma once

#include <cstdint>
#include <filesystem>

#include "mtp/hf/presets.h"

namespace mtp::model {

/// Writes OUT/base and OUT/drafter with random fp32 weights that a training from nothing can start from; the same seed
/// gives the same bytes. Written under a temporary name and renamed. Throws Error where `out` exists or cannot be
/// written.
void make_pair(const hf::Preset& preset, std::uint64_t seed, const std::filesystem::path& out);

}  // namespace mtp::model
