#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "mtp/core/file.h"

namespace mtp::checkpoint {

/// The name of a rank's file in a checkpoint.
std::string rank_file_name(int rank);

/// A checksum of all bytes of a file that no range has. `ranges`: by their first byte, how many there are; they do not
/// overlap.
std::string checksum_between(const RandomAccessFile& file, const std::map<std::int64_t, std::int64_t>& ranges);

}  // namespace mtp::checkpoint
