#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mtp/core/random.h"

namespace mtp::decode {

/// How tokens are chosen.
struct Sampling {
  double temperature =
      0;  // that logits are divided by; 0: greedily, the largest logit of all, of equal ones the lowest
  std::int64_t top_k = 0;  // among so many tokens, those with the largest logits; 0: among all
  double top_p = 1;        // and of those among the fewest, again with the largest logits, that have this probability
  std::uint64_t seed = 0;

  bool is_greedy() const { return temperature == 0; }
};

/// Tokens and their probabilities, which add up to 1. Other tokens have none.
struct Distribution {
  std::vector<std::int64_t> tokens;  // ascending
  std::vector<double> probabilities;

  double of(std::int64_t token) const;
};

/// What a model's logits say: divided by the temperature, then cut to `top_k`, then to `top_p`. Of equal logits the
/// lowest tokens come first. Logits that are no finite numbers have no probability; there may be no other.
Distribution distribution(const Sampling& sampling, std::span<const float> logits);

/// The token that a random number in [0, 1) falls on.
std::int64_t draw(const Distribution& p, double random);

// Speculative sampling: a draft that was drawn from q is accepted with probability min(1, p / q); in place of one that
// is not, a token is drawn from the residual. What comes out has the distribution p, whatever q is.
// Source: Leviathan et al., Fast Inference from Transformers via Speculative Decoding (arXiv:2211.17192).

bool accepts(const Distribution& p, const Distribution& q, std::int64_t draft, double random);
/// max(0, p - q), scaled to 1.
Distribution residual(const Distribution& p, const Distribution& q);

/// The random numbers of a text: a function of seed, text and position, whatever else is decoded at the same time.
class Draws {
 public:
  /// What a number is for. The token at a position may be drafted several times until all before it are accepted, but
  /// only the last time counts, and it is accepted or drawn once.
  enum class Use : std::uint8_t { token, draft, acceptance };

  /// `text`: its number among all, < 2^56.
  Draws(std::uint64_t seed, std::int64_t text) : random_(seed, Purpose::sampling, static_cast<std::uint64_t>(text)) {}

  /// In [0, 1), for the token at a position of the text.
  double operator()(std::int64_t position, Use use) const {
    return random_.uniform(4 * static_cast<std::uint64_t>(position) + static_cast<std::uint64_t>(use));
  }

 private:
  Random random_;
};

}  // namespace mtp::decode
