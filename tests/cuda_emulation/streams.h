#pragma once

// Streams, events and copies of the emulated CUDA. A device's first stream does at once what it is given; every other
// does nothing until somebody waits for it. So work that is not waited for comes too late, and what it gives is
// missing.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <vector>

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation, cudaErrorInvalidValue };

namespace emulation {

/// Every emulated device runs the threads of a block, and the blocks of a grid, in an order of its own.
enum class Order { forward, backward, shuffled };
inline constexpr int devices = 3;
inline int current_device = 0;

struct Stream {
  Order order;
  bool waits_to_be_waited_for;
  std::deque<std::function<void()>> work = {};
  std::size_t given = 0, done = 0;

  void give(std::function<void()> what) {
    work.push_back(std::move(what));
    ++given;
    if (!waits_to_be_waited_for) finish(given);
  }
  void finish(std::size_t count) {
    while (done < count) {
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      ++done;
      next();
    }
  }
};

/// All that were ever made: events outlive streams.
inline std::vector<std::unique_ptr<Stream>> streams;
inline int streams_in_use[devices] = {};

struct Event {
  Stream* stream = nullptr;
  std::size_t place = 0;
};

/// Page-locked memory of the host, by its first byte.
inline std::map<const std::byte*, std::size_t> locked;
inline bool is_locked(const void* address) {
  const auto* const byte = static_cast<const std::byte*>(address);
  const auto next = locked.upper_bound(byte);
  return next != locked.begin() && byte < std::prev(next)->first + std::prev(next)->second;
}

inline void finish_all() {
  for (const std::unique_ptr<Stream>& stream : streams) stream->finish(stream->given);
}

}  // namespace emulation

using cudaStream_t = emulation::Stream*;
using cudaEvent_t = emulation::Event*;
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2;

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const bool is_first = emulation::streams_in_use[emulation::current_device]++ == 0;
  emulation::streams.push_back(std::make_unique<emulation::Stream>(
      emulation::Stream{static_cast<emulation::Order>(emulation::current_device), !is_first}));
  return *stream = emulation::streams.back().get(), cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return stream->finish(stream->given), cudaSuccess; }
/// What it has been given is still done.
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return --emulation::streams_in_use[static_cast<int>(stream->order)], cudaSuccess;
}

inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return *event = new emulation::Event, cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return *event = {stream, stream->given}, cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
  if (event->stream != nullptr) stream->give([from = *event] { from.stream->finish(from.place); });
  return cudaSuccess;
}

/// Fresh memory is full of NaN.
inline cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  *block = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (*block == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*block, 0xFF, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* block) {
  emulation::finish_all();
  return std::free(block), cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** block, std::size_t bytes) {
  const cudaError_t status = cudaMalloc(block, bytes);
  if (status == cudaSuccess) emulation::locked[static_cast<std::byte*>(*block)] = bytes;
  return status;
}
inline cudaError_t cudaFreeHost(void* block) {
  emulation::locked.erase(static_cast<std::byte*>(block));
  return cudaFree(block);
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  return stream->give([=] { std::memset(to, value, bytes); }), cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
/// Pageable memory has been read or written when this returns, as it has with CUDA's own.
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t stream) {
  const auto* const source = static_cast<const std::byte*>(from);
  if (kind == cudaMemcpyHostToDevice && !emulation::is_locked(from)) {
    const auto staged = std::make_shared<std::vector<std::byte>>(source, source + bytes);
    return stream->give([=] { std::memcpy(to, staged->data(), bytes); }), cudaSuccess;
  }
  stream->give([=] { std::memcpy(to, from, bytes); });
  if (kind == cudaMemcpyDeviceToHost && !emulation::is_locked(to)) stream->finish(stream->given);
  return cudaSuccess;
}
