#pragma once

#include <bit>
#include <cstdint>

#include "mtp/tensor/tensor.h"

namespace mtp {

/// The upper half of a float: its range with 8 bits of precision. It stores numbers and computes nothing; conversions
/// are integer arithmetic that a compiler vectorises on every processor, and constexpr for kernels.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  /// To the nearest, of two equally near to the even one. NaN stays NaN.
  constexpr BFloat16(float value) { *this = value; }
  /// An assignment of its own, since gcc does not vectorise a loop that copies a temporary object.
  constexpr BFloat16& operator=(float value) {
    const auto all = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (all + 0x7FFF + (all >> 16 & 1)) >> 16, quiet_nan = all >> 16 | 64;
    bits = static_cast<std::uint16_t>(value == value ? rounded : quiet_nan);
    return *this;
  }
  constexpr operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

/// The number that a tensor of type `dtype` stores for `value`.
inline float rounded_to(DType dtype, float value) { return dtype == DType::bf16 ? float(BFloat16(value)) : value; }

}  // namespace mtp
