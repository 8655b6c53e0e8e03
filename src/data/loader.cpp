#include "mtp/data/loader.h"

#include <utility>

#include "mtp/core/error.h"

namespace mtp::data {
namespace {

std::int64_t micro_batches_of_a_rank(const Sampler& sampler, const Loader::Options& options) {
  MTP_ASSERT(options.prefetch > 0 && options.rank >= 0 && options.rank < options.ranks);
  MTP_ASSERT(sampler.global_batch() % (options.micro_batch * options.ranks) == 0);
  return sampler.global_batch() / options.micro_batch / options.ranks;
}

}  // namespace

Loader::Loader(const DataFile& file, Sampler sampler, Options options)
    : file_(file),
      sampler_(std::move(sampler)),
      options_(std::move(options)),
      micro_batches_(micro_batches_of_a_rank(sampler_, options_)),
      next_step_(options_.first_step),
      thread_([this](const std::stop_token& stop) { read_all(stop); }) {}

std::vector<MicroBatch> Loader::next() {
  MTP_ASSERT(next_step_ < options_.end_step);
  ++next_step_;
  std::vector<MicroBatch> batches;
  for (std::int64_t i = 0; i < micro_batches_; ++i) batches.push_back(take());
  return batches;
}

// The reading thread. It ends with a failure kept for the consumer, who rethrows it when it gets that far.
void Loader::read_all(const std::stop_token& stop) {
  try {
    for (std::int64_t step = options_.first_step; step < options_.end_step; ++step)
      for (std::int64_t i = 0; i < micro_batches_; ++i)
        if (!put(stop, read_micro_batch(step, i * options_.ranks + options_.rank))) return;
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

MicroBatch Loader::read_micro_batch(std::int64_t step, std::int64_t m) {
  std::vector<std::int64_t> samples;
  for (std::int64_t i = 0; i < options_.micro_batch; ++i)
    samples.push_back(sampler_.sample(step, m * options_.micro_batch + i));
  return make_micro_batch(file_, samples, options_.batch);
}

// Waits for room in the queue; false where the loader is to stop.
bool Loader::put(const std::stop_token& stop, MicroBatch batch) {
  std::unique_lock lock(mutex_);
  const auto has_room = [&] { return std::ssize(queue_) < options_.prefetch; };
  if (!changed_.wait(lock, stop, has_room)) return false;
  queue_.push_back(std::move(batch));
  changed_.notify_all();
  return true;
}

MicroBatch Loader::take() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !queue_.empty() || failure_; });
  if (queue_.empty()) std::rethrow_exception(failure_);
  MicroBatch batch = std::move(queue_.front());
  queue_.pop_front();
  changed_.notify_all();
  return batch;
}

}  // namespace mtp::data
