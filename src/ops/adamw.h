#pragma once

#include <bit>
#include <cstdint>

#include "adamw_coefficients.h"

namespace mtp::ops {

/// The bits of a bf16 number beside `value`: of the two nearest the upper one in magnitude with a probability that
/// makes the mean right, decided by 16 random bits. What bf16 can hold stays.
constexpr std::uint16_t rounded_at_random(float value, std::uint32_t random_bits) {
  const auto all = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (all + (random_bits & 0xFFFF)) >> 16, quiet_nan = all >> 16 | 64;
  return static_cast<std::uint16_t>(value == value ? rounded : quiet_nan);
}

}  // namespace mtp::ops
