#include "mtp/core/error.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "mtp/core/json.h"

namespace mtp {

namespace {

/// With U+FFFD in place of what is not UTF-8.
std::string as_utf8(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace

std::string one_line(std::string message) {
  constexpr std::size_t longest = 2000;
  if (message.size() > longest) message.replace(longest, std::string::npos, " …");
  const auto is_control = [](unsigned char c) { return c < ' ' || c == 127; };
  std::replace_if(message.begin(), message.end(), is_control, ' ');
  return as_utf8(message);
}

std::string system_reason(int error) { return std::generic_category().message(error); }

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "bug: %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace mtp
