#include "mtp/data/sampler.h"

#include <algorithm>
#include <limits>

#include "mtp/core/error.h"
#include "mtp/core/random.h"

namespace mtp::data {

Sampler::Sampler(const Options& options) : options_(options) {
  MTP_ASSERT(options.samples > 0 && options.global_batch > 0);
}

std::int64_t Sampler::sample(std::int64_t step, std::int64_t i) {
  MTP_ASSERT(step >= 0 && i >= 0 && i < options_.global_batch);
  const std::int64_t item = step * options_.global_batch + i;
  const std::int64_t index = item % options_.samples;
  if (!options_.shuffle) return index;
  if (const std::int64_t epoch = item / options_.samples; epoch != epoch_) {
    permutation_ = permutation(Random(options_.seed, Purpose::shuffle, epoch), options_.samples);
    epoch_ = epoch;
  }
  return permutation_[index];
}

std::int64_t Sampler::total_steps(std::int64_t max_steps, std::int64_t max_epochs) const {
  constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();
  MTP_ASSERT(max_steps > 0 || max_epochs > 0);
  std::int64_t epoch_steps = no_limit;
  if (std::int64_t items = 0; max_epochs > 0 && !__builtin_mul_overflow(max_epochs, options_.samples, &items))
    epoch_steps = items / options_.global_batch + (items % options_.global_batch != 0);
  return std::min(max_steps > 0 ? max_steps : no_limit, epoch_steps);
}

}  // namespace mtp::data
