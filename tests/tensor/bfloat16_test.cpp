#include "mtp/tensor/bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "mtp/tensor/device.h"

namespace mtp {
namespace {

float from_bits(std::uint16_t bits) {
  BFloat16 value;
  value.bits = bits;
  return value;
}

TEST(BFloat16, EveryNumberStaysItself) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = from_bits(static_cast<std::uint16_t>(bits));
    if (std::isnan(value))
      EXPECT_TRUE(std::isnan(BFloat16(value))) << bits;
    else
      EXPECT_EQ(BFloat16(value).bits, bits);
  }
}

TEST(BFloat16, BetweenTwoNumbersTheNearerIsTakenAndInTheMiddleTheEvenOne) {
  for (const std::uint16_t low : {0x3F80, 0x3F81, 0x0000, 0x0001, 0x007F, 0x7F7E, 0xBF80, 0x8001}) {
    const double a = from_bits(low), b = from_bits(low + 1), middle = (a + b) / 2;
    const auto below = std::nextafter(static_cast<float>(middle), static_cast<float>(a)),
               above = std::nextafter(static_cast<float>(middle), static_cast<float>(b));
    EXPECT_EQ(BFloat16(below).bits, low);
    EXPECT_EQ(BFloat16(above).bits, low + 1);
    EXPECT_EQ(BFloat16(static_cast<float>(middle)).bits, low % 2 == 0 ? low : low + 1);
  }
}

TEST(BFloat16, WhatIsTooLargeBecomesInfiniteAndNotANumberStaysSo) {
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7F80);
  EXPECT_EQ(BFloat16(-std::numeric_limits<float>::infinity()).bits, 0xFF80);
  // The bits that say "not a number" may all be in the half that is dropped, or overflow when it is rounded.
  for (const std::uint32_t bits : {0x7F800001u, 0x7FFFFFFFu, 0xFFFFFFFFu})
    EXPECT_TRUE(std::isnan(BFloat16(std::bit_cast<float>(bits))));
}

TEST(BFloat16, ADeviceRoundsWhatItIsGiven) {
  Device device(1);
  const std::vector<float> values{1.0f, 1.00390625f, -3.14159274f};
  std::vector<float> found(3);
  const Tensor tensor = device.from_host(values, {3}, DType::bf16);
  EXPECT_EQ(tensor.dtype(), DType::bf16);
  device.to_host(tensor, found);
  EXPECT_EQ(found, (std::vector<float>{1.0f, 1.0f, -3.140625f}));
}

}  // namespace
}  // namespace mtp
