#include "mtp/core/checksum.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp {

namespace {

std::string text_of(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

}  // namespace

struct Checksum::State {
  XXH3_state_t* hash = XXH3_createState();
  ~State() { XXH3_freeState(hash); }
};

Checksum::Checksum() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->hash); }
Checksum::~Checksum() = default;

void Checksum::add(std::span<const std::byte> bytes) { XXH3_128bits_update(state_->hash, bytes.data(), bytes.size()); }

std::string Checksum::text() const { return text_of(XXH3_128bits_digest(state_->hash)); }

std::string checksum_of(std::span<const std::byte> bytes) { return text_of(XXH3_128bits(bytes.data(), bytes.size())); }

std::string checksum_of_file(const std::filesystem::path& path, std::uint64_t begin, std::uint64_t bytes) {
  check_is_file(path);
  std::ifstream in(path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(begin));
  if (!in) throw Error("{}: cannot be read; check the path", path.string());
  Checksum checksum;
  std::vector<char> piece(std::size_t{1} << 20);
  while (bytes > 0 && in) {
    in.read(piece.data(), static_cast<std::streamsize>(std::min<std::uint64_t>(bytes, piece.size())));
    const auto read = static_cast<std::size_t>(in.gcount());
    checksum.add(std::as_bytes(std::span(piece).first(read)));
    bytes -= read;
  }
  if (in.bad()) throw Error("{}: reading failed; see whether the disk is sound", path.string());
  return checksum.text();
}

std::string checksum_of_file(const std::filesystem::path& path) {
  return checksum_of_file(path, 0, std::numeric_limits<std::uint64_t>::max());
}

}  // namespace mtp
