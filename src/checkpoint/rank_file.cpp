#include "rank_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "mtp/core/checksum.h"

namespace mtp::checkpoint {

std::string rank_file_name(int rank) { return fmt::format("rank_{:04}.h5", rank); }

void read_between(const RandomAccessFile& file, const Ranges& ranges,
                  const std::function<void(std::int64_t, std::span<const std::byte>)>& visit) {
  std::vector<std::byte> bytes;
  std::int64_t position = 0;
  const auto read_until = [&](std::int64_t end) {
    constexpr std::int64_t most = std::int64_t{1} << 20;
    for (; position < end; position += std::ssize(bytes)) {
      bytes.resize(static_cast<std::size_t>(std::min(most, end - position)));
      file.read(position, bytes);
      visit(position, bytes);
    }
  };
  for (const auto& [begin, length] : ranges) {
    read_until(begin);
    position = begin + length;
  }
  read_until(file.bytes());
}

std::string checksum_between(const RandomAccessFile& file, const Ranges& ranges) {
  Checksum checksum;
  read_between(file, ranges, [&](std::int64_t, std::span<const std::byte> bytes) { checksum.add(bytes); });
  return checksum.text();
}

}  // namespace mtp::checkpoint
