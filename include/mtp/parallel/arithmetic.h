#pragma once

#include <string>

#include "mtp/parallel/communicator.h"

namespace mtp::parallel {

/// What the bits of all results depend on beside the program: the device's kind, its driver and runtime, and the
/// libraries that compute on it and between the ranks. Collective. Throws AgreedError where ranks differ, for then the
/// bits would depend on which rank computes what.
std::string arithmetic_of(const Communicator& communicator, const Device& device);

}  // namespace mtp::parallel
