#pragma once

// Streams, events, pinned memory and the properties of devices. An operation happens at once where nothing before it in
// its stream is under way, as it is on an idle GPU. Only collectives (nccl.h), copies from pinned memory and what
// stands behind them happen later, while the host waits: whoever uses their tensors without waiting for them, or gives
// them away too early, gets other bits.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace emulation {

enum class Order;

struct Stream {
  Order order;
  int priority = 0;
  std::deque<std::function<bool()>> queue;  // each tries to happen, and says whether it has
};
struct Event {
  bool is_timed = false;
  std::shared_ptr<bool> has_happened = std::make_shared<bool>(true);
  std::shared_ptr<double> milliseconds = std::make_shared<double>(0);  // when it has
};

inline constexpr int highest_priority = -5;

const std::vector<std::unique_ptr<Stream>>& streams();
Stream* make_stream(Order order, int priority);
/// What it has been given still happens.
void destroy(Stream* stream);

/// Operations that need not wait are done at once if nothing is before them.
void enqueue(Stream* stream, std::function<bool()> operation);
/// Never at once.
void enqueue_later(Stream* stream, std::function<bool()> operation);
/// Lets every stream do what can happen now.
void progress();
/// Waits as the runtime does: for ever, where an operation never ends.
void finish(const Stream* stream);
void finish_all();

void copy(void* to, const void* from, std::size_t bytes, bool from_host, bool to_host, Stream* stream);
void* allocate_pinned(std::size_t bytes);
void free_pinned(void* block);

}  // namespace emulation
