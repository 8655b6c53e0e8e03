#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "mtp/core/error.h"

namespace mtp {

/// Philox4x32-10: four random words as a function of a 128-bit counter and a 64-bit key.
/// Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011); checked against Random123's vectors.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
  const auto round = [&] {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  };
  round(), round(), round(), round(), round();  // a loop would keep a loop around it from becoming one of vectors
  round(), round(), round(), round(), round();
  return counter;
}

/// What random numbers are drawn for. Purposes never share numbers. The values are part of every checkpoint's meaning.
enum class Purpose : std::uint8_t { shuffle = 1, initialisation = 2, stochastic_rounding = 3, sampling = 4 };

/// Random numbers as a function of (seed, purpose, stream, counter): no state, so it does not matter who draws them,
/// in which order or on how many ranks and threads. A stream is a use's own numbering, such as an epoch or a tensor.
/// Kernels of GPUs draw them too: what they call is constexpr.
class Random {
 public:
  /// `stream` < 2^56.
  Random(std::uint64_t seed, Purpose purpose, std::uint64_t stream) : seed_(seed) {
    MTP_ASSERT(stream >> 56 == 0);
    stream_ = stream | static_cast<std::uint64_t>(purpose) << 56;
  }

  /// The four random words that belong to a counter; everything below is made of them.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t counter) const {
    return philox4x32({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                       static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                      {static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32)});
  }

  /// 64 random bits.
  std::uint64_t bits(std::uint64_t counter) const {
    const auto words = block(counter);
    return words[0] | std::uint64_t{words[1]} << 32;
  }

  /// In [0, 1), a multiple of 2^-53.
  double uniform(std::uint64_t counter) const {
    const auto words = block(counter);
    return unit(words[0], words[1]);
  }

  /// Of the standard normal distribution (Box–Muller). Uses only operations that IEEE 754 rounds correctly, so that the
  /// bits are the same with every compiler and mathematics library.
  double normal(std::uint64_t counter) const;
  /// values[i] = normal(first + i), several at a time: about a tenth of the time.
  void normals(std::uint64_t first, std::span<double> values) const;

  /// In [0, n), n ≥ 1; no value is likelier than another by more than n / 2^64.
  std::uint64_t below(std::uint64_t counter, std::uint64_t n) const {
    MTP_ASSERT(n > 0);
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::uint64_t>(static_cast<Wide>(bits(counter)) * n >> 64);
  }

 private:
  /// The upper 53 of 64 bits, in halves that processors convert several at a time.
  static double unit(std::uint32_t low, std::uint32_t high) {
    const double upper = static_cast<double>(static_cast<std::int32_t>(high ^ 0x8000'0000)) + 0x1p31;
    return (upper * 0x1p21 + static_cast<double>(static_cast<std::int32_t>(low >> 11))) * 0x1p-53;
  }

  std::uint64_t seed_;
  std::uint64_t stream_;
};

/// The numbers 0 … n-1 in random order (Fisher–Yates).
std::vector<std::int64_t> permutation(const Random& random, std::int64_t n);

}  // namespace mtp
