#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace mtp {

/// A file that a run adds to for as long as it goes on, after every addition whole on the file system. What does not
/// fit on a full disk is kept and written with the next.
class AppendFile {
 public:
  /// Keeps the first bytes of a file that is there. Throws Error where it cannot be written.
  AppendFile(std::filesystem::path path, std::uintmax_t kept_bytes);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  /// Throws Error where something is still missing in the file.
  void finish();

 private:
  void write();

  std::filesystem::path path_;
  int file_ = -1;
  std::string unwritten_;
  bool is_warned_ = false;
};

}  // namespace mtp
