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

/// c = a b + beta · c, all fp32 or bf16. Sums are fp32 and not split. Where only one of a and b is bf16, it is widened
/// first, and the product is one in fp32.
void multiply(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c);

}  // namespace mtp::ops::cuda
