#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace mtp {

/// Throws Error where a path names something other than a regular file: opening a pipe would wait for ever, reading a
/// directory fails late. Whether there is anything at all is left to the one who opens it.
void check_is_file(const std::filesystem::path& path);

/// Waits until a file, or a folder's list of names, is on the disk. Throws Error where it could not be written.
void sync_to_disk(const std::filesystem::path& path);

/// Gives a folder the name of another, which is removed. At no time is there neither: the two change names in one step,
/// or, where the file system cannot do that, the other waits as TO.replaced until the new one has its name.
void replace_folder(const std::filesystem::path& from, const std::filesystem::path& to);

/// A file that is read or written at given places. Every failure is an Error that names the file and the system's
/// reason.
class RandomAccessFile {
 public:
  enum class Access { read, write };
  /// Opens an existing file.
  RandomAccessFile(std::filesystem::path path, Access access);
  RandomAccessFile(RandomAccessFile&& other) noexcept;
  ~RandomAccessFile();
  RandomAccessFile& operator=(RandomAccessFile&&) = delete;

  std::int64_t bytes() const;
  /// Throws Error where the file ends before too.
  void read(std::int64_t position, std::span<std::byte> bytes) const;
  void write(std::int64_t position, std::span<const std::byte> bytes);
  void sync();

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace mtp
