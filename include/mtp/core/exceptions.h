#pragma once

#include <exception>
#include <string>

namespace mtp {

/// What to print of an exception that is no Error: a path and a reason where the file system's library threw it.
std::string message_of(const std::exception& error);

}  // namespace mtp
