#pragma once

#include "../operand.h"
#include "mtp/tensor/device.h"

namespace mtp::ops::cuda {

/// c = a b + beta · c, all fp32 or bf16. Sums are fp32 and not split. Where only one of a and b is bf16, it is widened
/// first, and the product is one in fp32.
void multiply(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c);

}  // namespace mtp::ops::cuda
