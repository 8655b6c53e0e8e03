#pragma once

#include "mtp/graph/value.h"

namespace mtp::model {

/// Soft tokens, and the rows of the packed sequences whose input each of them is.
struct SoftTokens {
  Value features_RH;
  Tensor rows;  // [R] int64
};

}  // namespace mtp::model
