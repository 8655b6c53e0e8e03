#include "mtp/core/random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <span>

namespace mtp {
namespace {

// Sum of coefficients[i] · x^i. std::fma is written out because a compiler may or may not fuse a · b + c by itself.
double polynomial(std::span<const double> coefficients, double x) {
  double sum = 0;
  for (std::size_t i = coefficients.size(); i-- > 0;) sum = std::fma(sum, x, coefficients[i]);
  return sum;
}

// Natural logarithm of x > 0: x = m · 2^e with m near 1, log m = 2 atanh((m - 1) / (m + 1)) by its series.
double portable_log(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < std::numbers::sqrt2 / 2) {
    mantissa *= 2;
    --exponent;
  }
  static constexpr double series[] = {1.,      1. / 3,  1. / 5,  1. / 7,  1. / 9, 1. / 11,
                                      1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21};
  const double s = (mantissa - 1) / (mantissa + 1);
  return std::fma(static_cast<double>(exponent), std::numbers::ln2, 2 * s * polynomial(series, s * s));
}

// cos(2π · turns) for turns in [0, 1): folded to an angle of at most π/4, then the Taylor series.
double portable_cos_turns(double turns) {
  static constexpr double cosine[] = {1.,
                                      -1. / 2,
                                      1. / 24,
                                      -1. / 720,
                                      1. / 40320,
                                      -1. / 3628800,
                                      1. / 479001600,
                                      -1. / 87178291200,
                                      1. / 20922789888000};
  static constexpr double sine[] = {1.,          -1. / 6,        1. / 120,        -1. / 5040,
                                    1. / 362880, -1. / 39916800, 1. / 6227020800, -1. / 1307674368000};
  const int quarter = static_cast<int>(std::floor(turns * 4 + 0.5));
  const double angle = (turns - quarter * 0.25) * (2 * std::numbers::pi);
  const double square = angle * angle;
  if (quarter % 2 == 0) return (quarter % 4 == 0 ? 1 : -1) * polynomial(cosine, square);
  return (quarter == 1 ? -1 : 1) * (angle * polynomial(sine, square));
}

}  // namespace

double Random::normal(std::uint64_t counter) const {
  const auto words = block(counter);
  const double radius_draw = 1 - unit(words[0] | std::uint64_t{words[1]} << 32);  // in (0, 1]
  const double angle_draw = unit(words[2] | std::uint64_t{words[3]} << 32);
  return std::sqrt(-2 * portable_log(radius_draw)) * portable_cos_turns(angle_draw);
}

std::vector<std::int64_t> permutation(const Random& random, std::int64_t n) {
  std::vector<std::int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[random.below(i, i + 1)]);
  return order;
}

}  // namespace mtp
