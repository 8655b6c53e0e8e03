#pragma once

#include "mtp/tensor/device.h"

namespace mtp::ops::cuda {

/// A matrix as a product reads it: as it is stored, or transposed.
struct Operand {
  const Tensor& stored;
  bool is_transposed = false;

  std::int64_t rows() const { return stored.size(is_transposed ? 1 : 0); }
  std::int64_t columns() const { return stored.size(is_transposed ? 0 : 1); }
};
inline constexpr bool transposed = true;

/// c = a b + beta · c. a and b are both fp32 or both bf16, c is either; sums are fp32 and are not split.
void multiply(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c);

}  // namespace mtp::ops::cuda
