#pragma once

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "mtp/core/error.h"

namespace mtp::test {

/// A new empty directory that is removed with the object.
class TempDir {
 public:
  TempDir() {
    std::string name = testing::TempDir() + "mtp-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw Error("{}: cannot make a directory: {}", name, std::strerror(errno));
    path_ = name;
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace mtp::test
