#pragma once

#include <cstddef>

#include "../operand.h"
#include "mtp/tensor/device.h"

namespace mtp::ops::cuda {

inline constexpr std::size_t workspace_bytes = 32 << 20;  // what cuBLAS recommends for Hopper

/// c = a b + beta · c by cuBLAS, a and b of one type; see `multiply`.   workspace [workspace_bytes]
void queue_product(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c,
                   const Tensor& workspace);

}  // namespace mtp::ops::cuda
