#include "mtp/core/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace mtp {
namespace {

// Inlined and without branches or loops, so that a compiler can compute several numbers at a time. std::fma is written
// out because a compiler may or may not fuse a · b + c by itself.

// Sum of coefficients[i] · x^i.
template <std::size_t n>
double polynomial(const double (&coefficients)[n], double x) {
  return [&]<std::size_t... i>(std::index_sequence<i...>) {
    double sum = 0;
    ((sum = std::fma(sum, x, coefficients[n - 1 - i])), ...);
    return sum;
  }
  (std::make_index_sequence<n>());
}

// Natural logarithm of a normal x > 0: x = m · 2^e with m near 1, log m = 2 atanh((m - 1) / (m + 1)) by its series.
inline double portable_log(double x) {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  const auto half_to_one = std::bit_cast<double>((bits & 0x000F'FFFF'FFFF'FFFF) | 0x3FE0'0000'0000'0000);
  const double exponent_of_half_to_one = static_cast<std::int32_t>(bits >> 52) - 1022;
  const bool doubles = half_to_one < std::numbers::sqrt2 / 2;
  const double mantissa = doubles ? half_to_one * 2 : half_to_one;
  const double exponent = doubles ? exponent_of_half_to_one - 1 : exponent_of_half_to_one;
  static constexpr double series[] = {1.,      1. / 3,  1. / 5,  1. / 7,  1. / 9, 1. / 11,
                                      1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21};
  const double s = (mantissa - 1) / (mantissa + 1);
  return std::fma(exponent, std::numbers::ln2, 2 * s * polynomial(series, s * s));
}

// cos(2π · turns) for turns in [0, 1): folded to an angle of at most π/4, then the Taylor series.
inline double portable_cos_turns(double turns) {
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
  const double quarter = std::floor(turns * 4 + 0.5);
  const double angle = (turns - quarter * 0.25) * (2 * std::numbers::pi);
  const double square = angle * angle;
  const double even = polynomial(cosine, square), odd = angle * polynomial(sine, square);
  const double of_even = quarter == 2 ? -even : even, of_odd = quarter == 1 ? -odd : odd;
  return quarter == 1 || quarter == 3 ? of_odd : of_even;
}

// Of draws in [0, 1).
inline double box_muller(double radius_draw, double angle_draw) {
  return std::sqrt(-2 * portable_log(1 - radius_draw)) * portable_cos_turns(angle_draw);
}

}  // namespace

double Random::normal(std::uint64_t counter) const {
  const auto words = block(counter);
  return box_muller(unit(words[0], words[1]), unit(words[2], words[3]));
}

void Random::normals(std::uint64_t first, std::span<double> values) const {
  std::array<double, 64> piece;  // of a fixed size, without which gcc makes no vectors
  for (std::size_t begin = 0; begin < values.size(); begin += piece.size()) {
    for (std::size_t i = 0; i < piece.size(); ++i) {
      const auto words = block(first + begin + i);
      piece[i] = box_muller(unit(words[0], words[1]), unit(words[2], words[3]));
    }
    std::copy_n(piece.begin(), std::min(piece.size(), values.size() - begin), values.begin() + begin);
  }
}

std::vector<std::int64_t> permutation(const Random& random, std::int64_t n) {
  std::vector<std::int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[random.below(i, i + 1)]);
  return order;
}

}  // namespace mtp
