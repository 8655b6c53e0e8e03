// What tokens are drawn from, and that speculative sampling draws what plain sampling does.

#include "mtp/decode/sampling.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "decode/chi_square.h"

namespace mtp::decode {
namespace {

using Tokens = std::vector<std::int64_t>;
using testing::DoubleNear;
using testing::ElementsAre;

const std::vector<float> base_logits{0.5f, 2.0f, -1.0f, 1.0f, 2.0f, 0.0f, -2.0f, 1.5f};
const std::vector<float> drafter_logits{2.5f, 1.0f, 0.0f, -1.0f, 1.0f, 1.5f, 0.0f, -0.5f};

TEST(Sampling, TheTemperatureDividesLogits) {
  const Distribution p = distribution({.temperature = 0.5}, std::vector<float>{0, 1, std::log(2.0f)});
  const double sum = 1 + std::exp(2.0) + 4;
  EXPECT_EQ(p.tokens, (Tokens{0, 1, 2}));
  EXPECT_THAT(p.probabilities,
              ElementsAre(DoubleNear(1 / sum, 1e-7), DoubleNear(std::exp(2.0) / sum, 1e-7), DoubleNear(4 / sum, 1e-6)));
  EXPECT_EQ(p.of(1), p.probabilities[1]);
  EXPECT_EQ(p.of(3), 0);
}

TEST(Sampling, TopKAndTopPKeepTheLargestAndOfEqualOnesTheLowest) {
  const auto kept = [](Sampling sampling) { return distribution(sampling, base_logits).tokens; };
  EXPECT_EQ(kept({.temperature = 1, .top_k = 1}), (Tokens{1}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 3}), (Tokens{1, 4, 7}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 99}).size(), base_logits.size());
  // Logits 2, 2, 1.5, 1, … have the probabilities 0.294, 0.294, 0.178, 0.108, ….
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.29}), (Tokens{1}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.32}), (Tokens{1, 4}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.8}), (Tokens{1, 3, 4, 7}));
  // Of the three that are left, the first two have 0.767.
  EXPECT_EQ(kept({.temperature = 1, .top_k = 3, .top_p = 0.76}), (Tokens{1, 4}));
  const Distribution p = distribution({.temperature = 1, .top_k = 2}, base_logits);
  EXPECT_THAT(p.probabilities, ElementsAre(0.5, 0.5));
}

TEST(Sampling, LogitsThatAreNoNumbersHaveNoProbability) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(distribution({.temperature = 1}, std::vector<float>{nan, 1, -infinity, infinity, 2}).tokens,
            (Tokens{1, 4}));
  EXPECT_TRUE(distribution({.temperature = 1, .top_p = 0.5}, std::vector<float>{nan, nan}).tokens.empty());
}

TEST(Sampling, ARandomNumberFallsOnTheTokenWithItsShare) {
  const Distribution p{.tokens = {2, 5, 6, 9}, .probabilities = {0.25, 0.5, 0, 0.25}};
  for (const auto& [random, token] :
       std::map<double, std::int64_t>{{0, 2}, {0.2499, 2}, {0.25, 5}, {0.7499, 5}, {0.75, 9}, {1 - 0x1p-53, 9}})
    EXPECT_EQ(draw(p, random), token) << random;
}

TEST(Sampling, TheResidualIsWhatTheTargetHasMoreOf) {
  const Distribution p{.tokens = {0, 1, 2}, .probabilities = {0.5, 0.3, 0.2}};
  const Distribution q{.tokens = {1, 2, 3}, .probabilities = {0.6, 0.1, 0.3}};
  EXPECT_THAT(residual(p, q).probabilities, ElementsAre(DoubleNear(0.5 / 0.6, 1e-12), 0, DoubleNear(0.1 / 0.6, 1e-12)));
  EXPECT_EQ(residual(p, p).probabilities, p.probabilities);
}

TEST(Sampling, DrawsDependOnSeedTextPositionAndUse) {
  using Use = Draws::Use;
  const double number = Draws(1, 2)(3, Use::token);
  EXPECT_EQ(Draws(1, 2)(3, Use::token), number);
  EXPECT_NE(Draws(2, 2)(3, Use::token), number);
  EXPECT_NE(Draws(1, 3)(3, Use::token), number);
  EXPECT_NE(Draws(1, 2)(4, Use::token), number);
  EXPECT_NE(Draws(1, 2)(3, Use::draft), number);
  EXPECT_NE(Draws(1, 2)(3, Use::acceptance), Draws(1, 2)(3, Use::draft));
}

/// What takes the place of a draft that is not accepted.
using Policy = std::function<Distribution(const Distribution& p, const Distribution& q)>;

/// Draws by the counted tokens of 10,000 positions, each drafted by q: how far they are from p.
test::Fit fit_of_drafted(const Sampling& sampling, const Policy& in_place_of_rejected) {
  const Distribution p = distribution(sampling, base_logits), q = distribution(sampling, drafter_logits);
  const Draws draws(sampling.seed, 0);
  std::vector<double> expected;
  for (std::int64_t token = 0; token < std::ssize(base_logits); ++token) expected.push_back(p.of(token));
  std::vector<std::int64_t> counts(base_logits.size());
  for (std::int64_t position = 0; position < 10000; ++position) {
    std::int64_t token = draw(q, draws(position, Draws::Use::draft));
    if (!accepts(p, q, token, draws(position, Draws::Use::acceptance)))
      token = draw(in_place_of_rejected(p, q), draws(position, Draws::Use::token));
    ++counts[token];
  }
  return test::fit(counts, expected);
}

TEST(Sampling, DraftedDrawsHaveTheDistributionOfPlainOnesAndWouldNotWithoutTheResidual) {
  for (const Sampling& sampling :
       {Sampling{.temperature = 1, .seed = 1}, Sampling{.temperature = 0.6, .seed = 2},
        Sampling{.temperature = 1, .top_k = 5, .seed = 3}, Sampling{.temperature = 1, .top_p = 0.85, .seed = 4},
        Sampling{.temperature = 1.3, .top_k = 6, .top_p = 0.9, .seed = 5}}) {
    const test::Fit right = fit_of_drafted(sampling, residual);
    EXPECT_LT(right.chi_square, right.limit) << "top_k " << sampling.top_k << ", top_p " << sampling.top_p;
    const test::Fit wrong = fit_of_drafted(sampling, [](const Distribution& p, const Distribution&) { return p; });
    EXPECT_GT(wrong.chi_square, 5 * wrong.limit) << "top_k " << sampling.top_k << ", top_p " << sampling.top_p;
  }
}

}  // namespace
}  // namespace mtp::decode
