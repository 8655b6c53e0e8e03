#include "mtp/core/error.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace mtp {

std::string one_line(std::string message) {
  constexpr std::size_t longest = 2000;
  if (message.size() > longest) message.replace(longest, std::string::npos, " …");
  const auto is_control = [](unsigned char c) { return c < ' ' || c == 127; };
  std::replace_if(message.begin(), message.end(), is_control, ' ');
  return message;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "bug: %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace mtp
