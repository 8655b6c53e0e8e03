#include "mtp/tensor/thread_pool.h"

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include "mtp/core/error.h"

namespace mtp {

struct ThreadPool::Arena {
  explicit Arena(int threads)
      : limit(tbb::global_control::max_allowed_parallelism, static_cast<std::size_t>(threads)), arena(threads) {}

  tbb::global_control limit;  // also more threads than cores, where that is asked for
  tbb::task_arena arena;
};

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  MTP_ASSERT(threads >= 0);
  if (threads > 1) arena_ = std::make_unique<Arena>(threads);
}

ThreadPool::~ThreadPool() = default;

void ThreadPool::run(std::int64_t n, const std::function<void(std::int64_t)>& task) const {
  if (threads_ == 0) return;
  if (threads_ == 1 || n <= 1) {
    for (std::int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  arena_->arena.execute([&] { tbb::parallel_for(std::int64_t{0}, n, task, tbb::simple_partitioner()); });
}

}  // namespace mtp
