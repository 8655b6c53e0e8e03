#pragma once

#include <string>

#include "mtp/core/error.h"

namespace mtp::test {

/// The message of the Error (or of the given kind of it) that an action throws; "no error" where it throws none.
template <typename Kind = Error, typename Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Kind& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace mtp::test
