#include "streams.h"

#include <cuda_runtime.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

namespace emulation {

namespace {

std::vector<std::unique_ptr<Stream>> all;
std::map<const std::byte*, std::size_t> pinned;

bool is_pinned(const void* address) {
  const auto* byte = static_cast<const std::byte*>(address);
  const auto after = pinned.upper_bound(byte);
  return after != pinned.begin() && byte < std::prev(after)->first + std::prev(after)->second;
}

}  // namespace

const std::vector<std::unique_ptr<Stream>>& streams() { return all; }

Stream* make_stream(Order order, int priority) { return all.emplace_back(new Stream{order, priority, {}}).get(); }

void destroy(Stream* stream) {
  if (stream->queue.empty()) std::erase_if(all, [&](const auto& one) { return one.get() == stream; });
}

void enqueue(Stream* stream, std::function<bool()> operation) {
  if (capture.active)
    capture.graph.nodes.push_back(std::move(operation));
  else if (!stream->queue.empty() || !operation())
    stream->queue.push_back(std::move(operation));
}

void enqueue_later(Stream* stream, std::function<bool()> operation) { stream->queue.push_back(std::move(operation)); }

void progress() {
  for (bool any = true; any;) {
    any = false;
    for (const auto& stream : all)
      while (!stream->queue.empty() && stream->queue.front()()) {
        stream->queue.pop_front();
        any = true;
      }
  }
}

void finish(const Stream* stream) {
  while (!stream->queue.empty()) {
    progress();
    sched_yield();
  }
}

void finish_all() {
  for (const auto& stream : all) finish(stream.get());
}

void copy(void* to, const void* from, std::size_t bytes, bool from_host, bool to_host, Stream* stream) {
  if (to_host && !is_pinned(to)) finish(stream);
  if (from_host && !is_pinned(from) && !stream->queue.empty()) {
    const auto* begin = static_cast<const std::byte*>(from);
    return enqueue(stream, [to, read = std::vector<std::byte>(begin, begin + bytes)] {
      std::memcpy(to, read.data(), read.size());
      return true;
    });
  }
  const auto copied = [=] {
    std::memcpy(to, from, bytes);
    return true;
  };
  if (from_host && is_pinned(from))
    enqueue_later(stream, copied);
  else
    enqueue(stream, copied);
}

void* allocate_pinned(std::size_t bytes) {
  auto* block = static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
  if (block != nullptr) pinned[block] = bytes;
  return block;
}

void free_pinned(void* block) {
  pinned.erase(static_cast<std::byte*>(block));
  std::free(block);
}

}  // namespace emulation
