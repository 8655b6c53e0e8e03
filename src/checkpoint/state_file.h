#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "mtp/checkpoint/run_state.h"
#include "mtp/checkpoint/snapshot.h"

namespace mtp::checkpoint {

inline constexpr const char* state_format = "mtp-checkpoint";
/// In version 2, frozen parameters were tensors of the state; now they are in source/.
inline constexpr std::int64_t state_version = 3, oldest_state_version = 2;

/// Writes state.h5: attributes, and each tensor whole as a virtual dataset over the files of the ranks.
void write_state_file(const std::filesystem::path& path, const RunState& state,
                      const std::vector<StateTensor>& tensors);

}  // namespace mtp::checkpoint
