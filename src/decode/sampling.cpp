#include "mtp/decode/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mtp::decode {

namespace {

void scale_to_one(std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight /= sum;
}

/// Tokens with finite logits, cut to `top_k`, in any order.
std::vector<std::int64_t> candidates(const Sampling& sampling, std::span<const float> logits) {
  std::vector<std::int64_t> tokens;
  for (std::int64_t token = 0; token < std::ssize(logits); ++token)
    if (std::isfinite(logits[token])) tokens.push_back(token);
  if (sampling.top_k == 0 || sampling.top_k >= std::ssize(tokens)) return tokens;
  std::nth_element(tokens.begin(), tokens.begin() + sampling.top_k, tokens.end(), [&](std::int64_t a, std::int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  tokens.resize(static_cast<std::size_t>(sampling.top_k));
  return tokens;
}

/// The likeliest tokens, until they have `top_p` together.
Distribution cut(const Distribution& all, double top_p) {
  const auto is_later = [&](std::size_t a, std::size_t b) {
    return all.probabilities[a] < all.probabilities[b] || (all.probabilities[a] == all.probabilities[b] && a > b);
  };
  std::vector<std::size_t> heap(all.tokens.size());  // so that only as many are sorted as are kept
  std::iota(heap.begin(), heap.end(), 0);
  std::ranges::make_heap(heap, is_later);
  auto end = heap.end();
  for (double sum = 0; sum < top_p && end != heap.begin();) {
    std::pop_heap(heap.begin(), end--, is_later);
    sum += all.probabilities[*end];
  }
  std::sort(end, heap.end());
  Distribution kept;
  for (; end != heap.end(); ++end) {
    kept.tokens.push_back(all.tokens[*end]);
    kept.probabilities.push_back(all.probabilities[*end]);
  }
  scale_to_one(kept.probabilities);
  return kept;
}

}  // namespace

double Distribution::of(std::int64_t token) const {
  const auto found = std::ranges::lower_bound(tokens, token);
  return found != tokens.end() && *found == token ? probabilities[found - tokens.begin()] : 0;
}

Distribution distribution(const Sampling& sampling, std::span<const float> logits) {
  MTP_ASSERT(!sampling.is_greedy());
  Distribution p{.tokens = candidates(sampling, logits), .probabilities = {}};
  if (p.tokens.empty()) return p;
  std::ranges::sort(p.tokens);
  const float largest =
      logits[*std::ranges::max_element(p.tokens, {}, [&](std::int64_t token) { return logits[token]; })];
  for (const std::int64_t token : p.tokens)
    p.probabilities.push_back(std::exp((static_cast<double>(logits[token]) - largest) / sampling.temperature));
  scale_to_one(p.probabilities);
  return sampling.top_p < 1 ? cut(p, sampling.top_p) : p;
}

std::int64_t draw(const Distribution& p, double random) {
  double rest = random * std::accumulate(p.probabilities.begin(), p.probabilities.end(), 0.0);
  std::size_t last = 0;  // in case that the rest is used up by rounding
  for (std::size_t i = 0; i < p.tokens.size(); ++i) {
    if (p.probabilities[i] == 0) continue;
    last = i;
    rest -= p.probabilities[i];
    if (rest < 0) break;
  }
  return p.tokens[last];
}

bool accepts(const Distribution& p, const Distribution& q, std::int64_t draft, double random) {
  return random * q.of(draft) < p.of(draft);
}

Distribution residual(const Distribution& p, const Distribution& q) {
  Distribution rest = p;
  for (std::size_t i = 0; i < p.tokens.size(); ++i)
    rest.probabilities[i] = std::max(0.0, p.probabilities[i] - q.of(p.tokens[i]));
  // A draft is rejected where q exceeds p, which then exceeds q elsewhere, if by no more than rounding.
  if (std::ranges::all_of(rest.probabilities, [](double probability) { return probability == 0; })) return p;
  scale_to_one(rest.probabilities);
  return rest;
}

}  // namespace mtp::decode
