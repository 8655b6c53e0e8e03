#pragma once

#include <fmt/format.h>

#include <iostream>
#include <string>
#include <utility>

namespace mtp::apps {

/// A line of a report: what, and what is said of it.
template <typename... Args>
void print_line(const std::string& what, fmt::format_string<Args...> format, Args&&... args) {
  std::cout << fmt::format("{:<22} {}\n", what, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace mtp::apps
