#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace mtp {

/// A message as it may be printed: what comes from a file can hold line breaks, other control characters, bytes that
/// are no UTF-8, and any length.
std::string one_line(std::string message);

/// What the system says of an error number, an `errno`.
std::string system_reason(int error);

/// What the world did: a file, a setting, a peer, a disk, a device. The message is one line that names what, where and
/// what to do; `main` prints it. Ends the program with `exit_code`.
class Error : public std::runtime_error {
 public:
  template <typename... Args>
  explicit Error(fmt::format_string<Args...> format, Args&&... args)
      : std::runtime_error(one_line(fmt::format(format, std::forward<Args>(args)...))) {}

  int exit_code() const { return exit_code_; }

 protected:
  int exit_code_ = 1;
};

/// Wrong usage: an unknown setting, a value out of range, a contradiction. Exit code 2.
class UsageError : public Error {
 public:
  template <typename... Args>
  explicit UsageError(fmt::format_string<Args...> format, Args&&... args) : Error(format, std::forward<Args>(args)...) {
    exit_code_ = 2;
  }
};

/// Data that could be read and are wrong: certain damage, where a file that cannot be read may be readable later.
class DamageError : public Error {
 public:
  using Error::Error;
};

/// A fault that every rank of a job has found alike: all leave together, and rank 0 alone prints it.
class AgreedError : public Error {
 public:
  AgreedError(const std::string& message, int exit_code) : Error("{}", message) { exit_code_ = exit_code; }
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace mtp

/// What we did: a bug of this program. Always on; prints the condition and aborts.
#define MTP_ASSERT(condition) \
  ((condition) ? static_cast<void>(0) : ::mtp::assertion_failed(#condition, __FILE__, __LINE__))
