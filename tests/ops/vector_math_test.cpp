#include "../../src/ops/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace mtp::ops::cpu {
namespace {

/// Distance in units of the last place of the expected value; 0 for equal infinities.
double distance(float actual, double expected) {
  const auto rounded = static_cast<float>(expected);
  if (std::isinf(rounded)) return actual == rounded ? 0 : std::numeric_limits<double>::infinity();
  const float next = std::nextafter(std::abs(rounded), std::numeric_limits<float>::infinity());
  return std::abs(actual - expected) / (next - std::abs(rounded));
}

/// The largest distance over floats of every exponent and sign, denormal and infinite ones included.
template <typename Function, typename Reference>
double worst_distance(const Function& function, const Reference& reference) {
  double worst = 0;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 4099) {  // a prime: no bit stays the same
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!std::isnan(x)) worst = std::max(worst, distance(function(x), reference(static_cast<double>(x))));
  }
  return worst;
}

constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(VectorMath, ExpIsWithinItsBound) {
  EXPECT_LE(worst_distance(exp_f32, [](double x) { return std::exp(x); }), 1.1);
}

TEST(VectorMath, TanhIsWithinItsBound) {
  EXPECT_LE(worst_distance(tanh_f32, [](double x) { return std::tanh(x); }), 1.5);
}

TEST(VectorMath, LimitsAreExact) {
  EXPECT_EQ(exp_f32(0), 1);
  EXPECT_EQ(exp_f32(-infinity), 0);
  EXPECT_EQ(exp_f32(infinity), infinity);
  EXPECT_EQ(tanh_f32(infinity), 1);
  EXPECT_EQ(tanh_f32(-infinity), -1);
  EXPECT_TRUE(std::isnan(exp_f32(NAN)));
  EXPECT_TRUE(std::isnan(tanh_f32(NAN)));
}

}  // namespace
}  // namespace mtp::ops::cpu
