#include "rank_file.h"

#include <fmt/format.h>

#include <algorithm>

#include "mtp/core/checksum.h"

namespace mtp::checkpoint {

std::string rank_file_name(int rank) { return fmt::format("rank_{:04}.h5", rank); }

std::string checksum_between(const RandomAccessFile& file, const std::map<std::int64_t, std::int64_t>& ranges) {
  Checksum checksum;
  std::vector<std::byte> bytes;
  std::int64_t position = 0;
  const auto add_until = [&](std::int64_t end) {
    constexpr std::int64_t most = std::int64_t{1} << 20;
    for (; position < end; position += std::ssize(bytes)) {
      bytes.resize(static_cast<std::size_t>(std::min(most, end - position)));
      file.read(position, bytes);
      checksum.add(bytes);
    }
  };
  for (const auto& [begin, length] : ranges) {
    add_until(begin);
    position = begin + length;
  }
  add_until(file.bytes());
  return checksum.text();
}

}  // namespace mtp::checkpoint
