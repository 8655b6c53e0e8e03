#include "mtp/core/progress.h"

#include <fmt/format.h>
#include <spdlog/sinks/sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace mtp {

namespace {

constexpr auto between_drawings = std::chrono::milliseconds(200);

/// Whether a line of information would show on the screen.
bool screen_is_open() {
  const auto& logger = *spdlog::default_logger();
  return logger.should_log(spdlog::level::info) && logger.sinks().front()->should_log(spdlog::level::info);
}

std::string bar(double share) {
  constexpr int width = 24;
  const int full = static_cast<int>(share * width);
  return fmt::format("[{}{}] ", std::string(full, '#'), std::string(width - full, '-'));
}

}  // namespace

std::string duration(double seconds) {
  const auto s = static_cast<std::int64_t>(seconds + 0.5);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

Progress::Progress(std::string what, std::int64_t total, std::string unit, Clock::duration between_lines)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(std::max<std::int64_t>(total, 1)),
      begin_(Clock::now()),
      is_on_terminal_(screen_is_open() && isatty(STDERR_FILENO) != 0) {
  between_ = is_on_terminal_ ? Clock::duration(between_drawings) : between_lines;
  next_ = begin_ + between_;
}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (std::exchange(is_drawn_, false)) std::fputs("\r\033[K", stderr);
}

void Progress::add(std::int64_t count) {
  done_ = std::min(done_ + count, total_);
  const Clock::time_point now = Clock::now();
  if (done_ == total_) return clear();
  if (now < next_) return;
  next_ = now + between_;
  if (!is_on_terminal_) return spdlog::info("{}", text(now));
  is_drawn_ = true;
  std::fputs(("\r" + bar(static_cast<double>(done_) / static_cast<double>(total_)) + text(now) + "\033[K").c_str(),
             stderr);
}

std::string Progress::text(Clock::time_point now) const {
  const bool is_large = unit_ == "bytes" && total_ > 1'000'000;
  const double unit = is_large ? 1 << 20 : 1;
  const double done = static_cast<double>(done_), total = static_cast<double>(total_);
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  return fmt::format("{}: {:.0f} %, {:.0f} of {:.0f} {}, {:.3g} a second, {} left", what_, 100 * done / total,
                     done / unit, total / unit, is_large ? "MiB" : unit_, done / unit / std::max(seconds, 1e-9),
                     duration(seconds / std::max(done, 1.0) * (total - done)));
}

}  // namespace mtp
