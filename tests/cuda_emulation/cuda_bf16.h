#pragma once

#include "cuda_runtime.h"
#include "mtp/tensor/bfloat16.h"

using __nv_bfloat16 = mtp::BFloat16;
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
inline std::uint16_t __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
