#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "mtp/core/file.h"

namespace mtp::checkpoint {

/// The name of a rank's file in a checkpoint.
std::string rank_file_name(int rank);

/// Ranges of a file's bytes: by their first byte, how many there are. They do not overlap.
using Ranges = std::map<std::int64_t, std::int64_t>;

/// Reads all bytes of a file that no range has, in pieces: visit(position, bytes).
void read_between(const RandomAccessFile& file, const Ranges& ranges,
                  const std::function<void(std::int64_t, std::span<const std::byte>)>& visit);
/// Their checksum.
std::string checksum_between(const RandomAccessFile& file, const Ranges& ranges);

}  // namespace mtp::checkpoint
