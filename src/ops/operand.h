#pragma once

#include <cstdint>

#include "mtp/tensor/tensor.h"

namespace mtp::ops {

/// A matrix as a product reads it: as it is stored, or transposed.
struct Operand {
  Tensor stored;
  bool is_transposed = false;

  std::int64_t rows() const { return stored.size(is_transposed ? 1 : 0); }
  std::int64_t columns() const { return stored.size(is_transposed ? 0 : 1); }
};
inline constexpr bool transposed = true;

}  // namespace mtp::ops
