#include "mtp/core/random.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <span>
#include <vector>

namespace mtp {
namespace {

using testing::ElementsAre;

// Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, GivesTheKnownAnswersOfRandom123) {
  EXPECT_THAT(philox4x32({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Random, DependsOnSeedPurposeStreamAndCounterAlone) {
  const std::uint64_t bits = Random(1, Purpose::shuffle, 2).bits(3);
  EXPECT_EQ(Random(1, Purpose::shuffle, 2).bits(3), bits);
  EXPECT_NE(Random(2, Purpose::shuffle, 2).bits(3), bits);
  EXPECT_NE(Random(1, Purpose::initialisation, 2).bits(3), bits);
  EXPECT_NE(Random(1, Purpose::shuffle, 3).bits(3), bits);
  EXPECT_NE(Random(1, Purpose::shuffle, 2).bits(4), bits);
}

TEST(Random, NumbersNeverChangeBetweenVersions) {
  const Random random(42, Purpose::initialisation, 7);
  EXPECT_EQ(random.bits(0), 6549801217265344056u);
  EXPECT_EQ(random.uniform(1), 0x1.6f856780a7cfep-1);
  EXPECT_EQ(random.normal(0), -0x1.c6c1b1adf0986p-1);
  EXPECT_EQ(random.normal(1), -0x1.9e1b61281849ep-1);
  EXPECT_EQ(random.below(5, 1000), 751u);
}

TEST(Random, UniformNumbersFillTheUnitInterval) {
  const Random random(3, Purpose::initialisation, 0);
  const int n = 100000;
  double sum = 0, least = 1, most = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform(i);
    sum += u;
    least = std::min(least, u);
    most = std::max(most, u);
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1. / 12 / n));
  EXPECT_GE(least, 0.0);
  EXPECT_LT(least, 1e-3);
  EXPECT_LT(most, 1.0);
  EXPECT_GT(most, 1 - 1e-3);
}

TEST(Random, NormalNumbersHaveTheMomentsAndTailsOfTheNormalDistribution) {
  const Random random(3, Purpose::initialisation, 1);
  const int n = 200000;
  double sum = 0, square = 0, fourth = 0;
  int beyond_two = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal(i);
    sum += x;
    square += x * x;
    fourth += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  EXPECT_NEAR(sum / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1, 5 * std::sqrt(2. / n));
  EXPECT_NEAR(fourth / n, 3, 5 * std::sqrt(96. / n));
  EXPECT_NEAR(static_cast<double>(beyond_two) / n, std::erfc(std::sqrt(2.)), 5 * std::sqrt(0.0455 / n));
}

TEST(Random, ManyNormalNumbersAtATimeAreTheSingleOnesToTheBit) {
  const Random random(11, Purpose::initialisation, 3);
  const std::uint64_t first = (std::uint64_t{1} << 32) - 100;  // the upper half of the counter changes on the way
  std::vector<double> values(1000, -1.0);
  random.normals(first, std::span(values).first(999));  // and the last vector is not full
  for (std::size_t i = 0; i + 1 < values.size(); ++i) ASSERT_EQ(values[i], random.normal(first + i)) << "number " << i;
  EXPECT_EQ(values.back(), -1.0);
}

// Box–Muller with the standard library, on the words behind each number.
TEST(Random, NormalNumbersAgreeWithTheStandardLibraryToRounding) {
  const std::uint64_t seed = 9, stream = 5;
  const Random random(seed, Purpose::initialisation, stream);
  for (std::uint32_t i = 0; i < 20000; ++i) {
    const auto words = philox4x32({i, 0, stream, 2u << 24}, {seed, 0});
    const auto unit = [](std::uint64_t low, std::uint64_t high) {
      return static_cast<double>((low | high << 32) >> 11) * 0x1p-53;
    };
    const double expected = std::sqrt(-2 * std::log(1 - unit(words[0], words[1]))) *
                            std::cos(2 * std::numbers::pi * unit(words[2], words[3]));
    ASSERT_NEAR(random.normal(i), expected, 4e-15) << "number " << i;
  }
}

TEST(Random, NumbersBelowABoundAreAllEquallyLikely) {
  const Random random(4, Purpose::shuffle, 0);
  std::vector<int> count(7);
  for (int i = 0; i < 70000; ++i) ++count[random.below(i, 7)];
  for (const int c : count) EXPECT_NEAR(c, 10000, 5 * std::sqrt(10000));
}

TEST(Permutation, HoldsEveryNumberOnceAndIsNotTheIdentity) {
  std::vector<std::int64_t> order = permutation(Random(42, Purpose::shuffle, 0), 1000);
  std::vector<std::int64_t> identity(1000);
  std::iota(identity.begin(), identity.end(), 0);
  EXPECT_NE(order, identity);
  EXPECT_NE(order, permutation(Random(42, Purpose::shuffle, 1), 1000));
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, identity);
}

TEST(Permutation, OfSmallSetsNeverChangesBetweenVersions) {
  EXPECT_THAT(permutation(Random(42, Purpose::shuffle, 0), 8), ElementsAre(5, 3, 7, 0, 1, 6, 4, 2));
  EXPECT_THAT(permutation(Random(42, Purpose::shuffle, 0), 1), ElementsAre(0));
  EXPECT_THAT(permutation(Random(42, Purpose::shuffle, 0), 0), ElementsAre());
}

}  // namespace
}  // namespace mtp
