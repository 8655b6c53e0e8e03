#pragma once

#include <string>

#include "mtp/tensor/device.h"

namespace mtp::ops {

/// The library of matrix products on this device, its version and, of a CPU, the instructions that it uses there, such
/// as "oneDNN 2.6.3 with avx2" or "cuBLASLt 13.0.2". Another one may give other bits.
std::string product_library(const Device& device);

}  // namespace mtp::ops
