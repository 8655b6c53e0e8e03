#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace mtp {

/// Throws Error where a path names something other than a regular file: opening a pipe would wait for ever, reading a
/// directory fails late. Whether there is anything at all is left to the one who opens it.
void check_is_file(const std::filesystem::path& path);

/// Waits until a file's contents, or a folder's list of names, are on the disk.
void sync(const std::filesystem::path& path);

/// A file that is written at given places, for bytes that need not pass through a stream. Every failure is an Error
/// that names the file and the system's reason.
class RandomAccessFile {
 public:
  /// Opens an existing file.
  explicit RandomAccessFile(std::filesystem::path path);
  ~RandomAccessFile();
  RandomAccessFile(const RandomAccessFile&) = delete;
  RandomAccessFile& operator=(const RandomAccessFile&) = delete;

  void write(std::int64_t position, std::span<const std::byte> bytes);
  void sync();

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace mtp
