#pragma once

#include <cstdint>
#include <vector>

namespace mtp::data {

/// The order of samples: item p = step · global_batch + i of the endless stream is sample perm_e[p mod N] of epoch
/// e = ⌊p / N⌋. perm_e is the identity, or with `shuffle` drawn from (seed, e). Steps straddle epochs.
class Sampler {
 public:
  struct Options {
    std::int64_t samples = 0;  // N
    std::int64_t global_batch = 1;
    bool shuffle = false;
    std::uint64_t seed = 0;
  };
  explicit Sampler(const Options& options);

  std::int64_t global_batch() const { return options_.global_batch; }

  /// Sample of item `i` of a 0-based step. Fast where epochs are asked for in order: it keeps one permutation.
  std::int64_t sample(std::int64_t step, std::int64_t i);

  /// 0-based epoch of a step's first item.
  std::int64_t epoch(std::int64_t step) const { return step * options_.global_batch / options_.samples; }

  /// Steps until the first limit is reached: max_steps, or max_epochs as ⌈max_epochs · N / global_batch⌉; 0: no such
  /// limit.
  std::int64_t total_steps(std::int64_t max_steps, std::int64_t max_epochs) const;

 private:
  Options options_;
  std::int64_t epoch_ = -1;  // of permutation_
  std::vector<std::int64_t> permutation_;
};

}  // namespace mtp::data
