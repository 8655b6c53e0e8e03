#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "mtp/core/error.h"

// What fuzz targets share. A target is LLVMFuzzerTestOneInput; libFuzzer brings main.
// Source: https://llvm.org/docs/LibFuzzer.html
namespace mtp::fuzz {

/// Anything but success and Error, in one line, is a finding: other exceptions leave the target, and libFuzzer reports
/// them.
template <typename Work>
void may_refuse(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    if (std::string_view(error.what()).find('\n') != std::string_view::npos) std::abort();
  }
}

/// A file in memory, under a path that any reader can open.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::uint8_t> bytes) : file_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (file_ < 0 || write(file_, bytes.data(), bytes.size()) != std::ssize(bytes)) std::abort();
  }
  ~MemoryFile() { close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(file_); }

 private:
  int file_;
};

}  // namespace mtp::fuzz
