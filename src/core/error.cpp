#include "mtp/core/error.h"

#include <cstdio>
#include <cstdlib>

namespace mtp {

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "bug: %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace mtp
