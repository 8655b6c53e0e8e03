#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace mtp::decode::test {

/// Pearson's chi-square of counts against the probabilities of their cells, and the value that one of 10,000 samples
/// of that distribution exceeds.
struct Fit {
  double chi_square, limit;
};

/// Cells that too few draws are expected in are taken together. A count where there is no probability fits nothing.
inline Fit fit(const std::vector<std::int64_t>& counts, const std::vector<double>& probabilities) {
  constexpr double fewest = 5;
  const auto draws = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  double chi_square = 0, rare_count = 0, rare_expected = 0;
  std::int64_t cells = 0;
  const auto add = [&](double count, double expected) {
    chi_square += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto count = static_cast<double>(counts[i]);
    const double expected = probabilities[i] * draws;
    if (expected == 0 && count > 0) return {std::numeric_limits<double>::infinity(), 0};
    if (expected >= fewest) {
      add(count, expected);
    } else {
      rare_count += count;
      rare_expected += expected;
    }
  }
  if (rare_expected > fewest) add(rare_count, rare_expected);
  // Wilson and Hilferty's approximation, at 3.72 standard deviations.
  const double freedom = static_cast<double>(cells) - 1, part = 2 / (9 * freedom);
  return {chi_square, freedom * std::pow(1 - part + 3.72 * std::sqrt(part), 3)};
}

}  // namespace mtp::decode::test
