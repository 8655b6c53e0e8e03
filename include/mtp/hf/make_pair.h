#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/core/json.h"

namespace mtp::hf {

/// The shape of a pair: its two config.json.
struct Preset {
  std::string name;
  std::string summary;  // one line
  Json base, drafter;
};

/// Every preset: the small ones, the published pairs' structures at small widths (…-mini), and their real shapes.
const std::vector<Preset>& presets();

/// Writes OUT/base and OUT/drafter with random fp32 weights that a training from nothing can start from; the same seed
/// gives the same bytes. Written under a temporary name and renamed. Throws Error where `out` exists or cannot be
/// written.
void make_pair(const Preset& preset, std::uint64_t seed, const std::filesystem::path& out);

}  // namespace mtp::hf
