#pragma once

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

}  // namespace mtp::hf
