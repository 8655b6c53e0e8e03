#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace mtp {

/// The XXH3 checksum of bytes that come piece by piece: 128 bits as 32 hexadecimal digits. Against damage, not against
/// malice.
/// Source: xxHash 0.8.
class Checksum {
 public:
  Checksum();
  ~Checksum();

  void add(std::span<const std::byte> bytes);
  std::string text() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string checksum_of(std::span<const std::byte> bytes);

/// Of `bytes` bytes of a file from `begin` on; of fewer, where it ends before. Throws Error where it cannot be read.
std::string checksum_of_file(const std::filesystem::path& path, std::uint64_t begin, std::uint64_t bytes);
/// Of the whole file.
std::string checksum_of_file(const std::filesystem::path& path);

/// The SHA-256 of a file as 64 hexadecimal digits: what names a tokenizer in data files.
std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace mtp
