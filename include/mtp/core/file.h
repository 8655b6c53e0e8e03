#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace mtp {

/// Throws Error where a path names something other than a regular file: opening a pipe would block forever, and reading
/// a directory fails late. A path that names nothing is left to whoever opens it.
void check_is_file(const std::filesystem::path& path);

/// Whether the path names nothing. Throws Error where that cannot be determined.
bool is_missing(const std::filesystem::path& path);

/// Free space of the file system that holds a folder. Throws Error where that is unknown.
std::int64_t free_bytes(const std::filesystem::path& folder);

/// Waits until a file, or a folder's list of names, is on the disk. Throws Error where it could not be written.
void sync_to_disk(const std::filesystem::path& path);
/// The same for everything in a folder, and in those in it.
void sync_folder_to_disk(const std::filesystem::path& folder);

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
  /// A new file, or an empty one in place of an old one.
  static RandomAccessFile create(std::filesystem::path path);
  /// A new file in a folder. It has a path until `unlink`.
  static RandomAccessFile temporary(const std::filesystem::path& folder);
  RandomAccessFile(RandomAccessFile&& other) noexcept;
  ~RandomAccessFile();
  RandomAccessFile& operator=(RandomAccessFile&&) = delete;

  /// A path that opens this file, for libraries that want one.
  const std::filesystem::path& path() const { return path_; }
  /// For what a class that maps the file needs.
  int descriptor() const { return file_; }
  std::int64_t bytes() const;
  /// Cuts the file or makes it longer, by zeros that take no room.
  void resize(std::int64_t bytes);
  /// Takes the file's name away: it ends with the last who has it open.
  void unlink() const;
  /// Throws DamageError where the file ends before.
  void read(std::int64_t position, std::span<std::byte> bytes) const;
  void write(std::int64_t position, std::span<const std::byte> bytes);
  /// Starts to write that range to the disk, without waiting for it.
  void start_sync(std::int64_t position, std::int64_t bytes);
  void sync();

 private:
  RandomAccessFile(int file, std::filesystem::path path);

  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace mtp
