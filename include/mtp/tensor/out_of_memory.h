#pragma once

#include "mtp/core/error.h"

namespace mtp {

/// A device has no memory left for a tensor.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

}  // namespace mtp
