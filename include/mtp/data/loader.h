#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "mtp/data/batch.h"
#include "mtp/data/sampler.h"

namespace mtp::data {

/// Reads a rank's micro-batches of every step ahead, on a thread of its own.
///
/// A step has M = global_batch / micro_batch micro-batches, numbered over all ranks; micro-batch m holds items
/// m·micro_batch … of the step. Rank r of R takes m = r, r + R, r + 2R, …; R must divide M.
class Loader {
 public:
  struct Options {
    std::int64_t micro_batch = 1;
    BatchOptions batch = {};
    std::int64_t prefetch = 2;  // micro-batches read ahead, at least 1
    std::int64_t rank = 0, ranks = 1;
    std::int64_t first_step = 0;
    std::int64_t end_step = 0;  // one past the last step
  };

  /// `file` must outlive the loader.
  Loader(const DataFile& file, Sampler sampler, Options options);
  /// Stops reading, at the latest after the micro-batch being read.
  ~Loader() = default;

  /// This rank's micro-batches of the next step, in order, from first_step on; not to be called after the last step.
  /// Rethrows what went wrong in reading.
  std::vector<MicroBatch> next();

 private:
  void read_all(const std::stop_token& stop);
  MicroBatch read_micro_batch(std::int64_t step, std::int64_t m);
  bool put(const std::stop_token& stop, MicroBatch batch);
  MicroBatch take();

  const DataFile& file_;
  Sampler sampler_;
  Options options_;
  std::int64_t micro_batches_;  // of a step, on this rank
  std::int64_t next_step_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<MicroBatch> queue_;
  std::exception_ptr failure_;
  std::jthread thread_;  // last, so that it ends before what it uses
};

}  // namespace mtp::data
