#pragma once

#include <cstdint>
#include <string>

#include "mtp/model/make_pair.h"

namespace mtp::bench {

/// What a preset is cut down to where the whole does not fit; 0: uncut.
struct Cut {
  std::int64_t layer_groups = 0;  // of the base: its sliding layers up to and with a full one
  std::int64_t vocabulary = 0;
};

/// The presets of mtp-make-pair, and `17m`: the pair of 17 million parameters of scripts/dev/compare_with_reference.py.
/// Throws UsageError for another name, and for a cut that leaves nothing.
hf::Preset find_shape(const std::string& name, const Cut& cut);

}  // namespace mtp::bench
