#include "mtp/core/checksum.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp {

namespace {

std::string text_of(XXH128_hash_t hash) { return fmt::format("{:016x}{:016x}", hash.high64, hash.low64); }

/// visit(piece) for the bytes of a file from `begin` on, at most `bytes`.
template <typename Visit>
void for_each_piece(const std::filesystem::path& path, std::uint64_t begin, std::uint64_t bytes, const Visit& visit) {
  constexpr std::uint64_t most = std::uint64_t{1} << 20;
  check_is_file(path);
  const RandomAccessFile file(path, RandomAccessFile::Access::read);
  const auto size = static_cast<std::uint64_t>(file.bytes());
  const std::uint64_t end = begin + std::min(bytes, size - std::min(begin, size));
  std::vector<std::byte> piece;
  for (std::uint64_t at = begin; at < end; at += piece.size()) {
    piece.resize(std::min(most, end - at));
    file.read(static_cast<std::int64_t>(at), piece);
    visit(std::span<const std::byte>(piece));
  }
}

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
  Checksum checksum;
  for_each_piece(path, begin, bytes, [&](std::span<const std::byte> piece) { checksum.add(piece); });
  return checksum.text();
}

std::string sha256_of_file(const std::filesystem::path& path) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  MTP_ASSERT(EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr) == 1);
  for_each_piece(path, 0, std::numeric_limits<std::uint64_t>::max(), [&](std::span<const std::byte> piece) {
    MTP_ASSERT(EVP_DigestUpdate(hash.get(), piece.data(), piece.size()) == 1);
  });
  std::array<unsigned char, 32> digest;
  MTP_ASSERT(EVP_DigestFinal_ex(hash.get(), digest.data(), nullptr) == 1);
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

std::string checksum_of_file(const std::filesystem::path& path) {
  return checksum_of_file(path, 0, std::numeric_limits<std::uint64_t>::max());
}

}  // namespace mtp
