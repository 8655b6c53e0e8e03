#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace mtp {

/// The threads that run a CPU device's operations. They sleep between operations: ranks that share cores, or a busy
/// machine, cost no spinning.
class ThreadPool {
 public:
  /// `threads` 0: none, so that `run` does nothing, for a device that only counts.
  explicit ThreadPool(int threads);
  ~ThreadPool();

  int threads() const { return threads_; }

  /// Calls task(i) for 0 ≤ i < n, in any order, and returns when all have ended. What a call computes must not depend
  /// on the thread that runs it.
  void run(std::int64_t n, const std::function<void(std::int64_t)>& task) const;

 private:
  struct Arena;

  int threads_;
  std::unique_ptr<Arena> arena_;
};

}  // namespace mtp
