#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace mtp {

/// "1:05", "2:03:04".
std::string duration(double seconds);

/// Says how far a piece of work is and when it will be done, where it takes long: on a terminal by a bar, which is gone
/// at the end; elsewhere by a line in the log every ten seconds. On other ranks than the first, and on a quiet screen,
/// it says nothing. For one thread.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;

  /// `unit`: what is counted, such as "prompts"; of "bytes" more than a million are shown as MiB.
  Progress(std::string what, std::int64_t total, std::string unit,
           Clock::duration between_lines = std::chrono::seconds(10));
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void add(std::int64_t count = 1);

 private:
  void clear();
  std::string text(Clock::time_point now) const;

  std::string what_, unit_;
  std::int64_t total_, done_ = 0;
  Clock::time_point begin_, next_;
  Clock::duration between_;
  bool is_on_terminal_, is_drawn_ = false;
};

}  // namespace mtp
