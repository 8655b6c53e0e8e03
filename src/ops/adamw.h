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

/// Throws unless a shard's tensors fit together.
inline void check_shard(const AdamWShard& shard) {
  const std::int64_t n = shard.weight.elements();
  const DType moments = shard.moment1.dtype();
  MTP_ASSERT(shard.gradient.elements() == n && shard.moment1.elements() == n && shard.moment2.elements() == n);
  MTP_ASSERT(shard.moment2.dtype() == moments && (moments == DType::f32 || moments == DType::bf16));
  MTP_ASSERT(shard.rounded_weight.empty() ||
             (shard.rounded_weight.elements() == n && shard.rounded_weight.dtype() == DType::bf16));
}

}  // namespace mtp::ops
