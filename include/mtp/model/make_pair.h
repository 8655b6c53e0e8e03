#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "mtp/core/settings.h"
#include "mtp/hf/presets.h"

namespace mtp::model {

/// Writes OUT/base and OUT/drafter with random weights, fp32 or rounded to bf16, that a training from nothing can start
/// from; the same seed gives the same bytes. Without a seed there are no weights: only config.json, for plans. Written
/// under a temporary name and renamed. Throws Error where `out` exists or cannot be written.
void make_pair(const hf::Preset& preset, std::optional<std::uint64_t> seed, const std::filesystem::path& out,
               ComputeType dtype = ComputeType::fp32);

}  // namespace mtp::model
