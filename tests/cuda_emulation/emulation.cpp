// Runs the threads of a block as fibers, one at a time, until each waits or has ended; when all that are left wait for
// the same barrier, it opens. A warp goes as far as it gets before the next one starts, so that one that does not wait
// for another is far ahead of it or behind it. Barriers that only some threads reach end the program. Faults show as
// differences between devices: each runs threads and blocks in another order, so that a missing barrier, or blocks that
// depend on each other, change results. Memory that is read before it is written holds NaN; the address sanitizer sees
// what is out of bounds.

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cuda_runtime.h"

// The address sanitizer wants to be told of every change of stacks.
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#else
static void __sanitizer_start_switch_fiber(void**, const void*, std::size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*) {}
#endif

namespace emulation {

namespace {

constexpr std::size_t stack_bytes = 256 << 10, most_threads = 1024, warp_size = 32;

enum class State { running, waiting_for_block, exchanging, ended };

/// Gives a fiber the same memory for its stack again and again.
struct StackIn {
  std::unique_ptr<std::byte[]>& memory;

  boost::context::stack_context allocate() {
    if (memory == nullptr) memory = std::make_unique<std::byte[]>(stack_bytes);
    boost::context::stack_context context;
    context.size = stack_bytes;
    context.sp = memory.get() + stack_bytes;
    return context;
  }
  void deallocate(boost::context::stack_context&) {}
};

struct Fiber {
  boost::context::fiber fiber;
  std::unique_ptr<std::byte[]> stack;
  State state = State::ended;
  dim3 index;
  unsigned place = 0;      // among the threads of its block
  unsigned exchanges = 0;  // so far: consecutive ones use the two rows of slots in turn
  void* sanitizer_state = nullptr;
};

Fiber fibers[most_threads];
std::uint64_t slots[2][most_threads];
Fiber* current = nullptr;
boost::context::fiber scheduler;
void* scheduler_sanitizer_state = nullptr;
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_bytes = 0;
std::vector<std::byte> shared;
Order running_order = Order::forward;

void leave_for_fiber(Fiber& fiber) {
  __sanitizer_start_switch_fiber(&scheduler_sanitizer_state, fiber.stack.get(), stack_bytes);
  fiber.fiber = std::move(fiber.fiber).resume();
  __sanitizer_finish_switch_fiber(scheduler_sanitizer_state, nullptr, nullptr);
}

void wait(State state) {
  Fiber& self = *current;
  self.state = state;
  __sanitizer_start_switch_fiber(&self.sanitizer_state, scheduler_stack, scheduler_stack_bytes);
  scheduler = std::move(scheduler).resume();
  __sanitizer_finish_switch_fiber(self.sanitizer_state, &scheduler_stack, &scheduler_stack_bytes);
}

void start(Fiber& fiber, unsigned place, dim3 block, const std::function<void()>& thread) {
  fiber.place = place;
  fiber.index = dim3(place % block.x, place / block.x % block.y, place / (block.x * block.y));
  fiber.state = State::running;
  fiber.exchanges = 0;
  fiber.fiber = boost::context::fiber(std::allocator_arg, StackIn{fiber.stack}, [&](boost::context::fiber&& caller) {
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    scheduler = std::move(caller);
    thread();
    if (has_copies_under_way()) fail("a thread has ended before its copies");
    fiber.state = State::ended;
    __sanitizer_start_switch_fiber(nullptr, scheduler_stack, scheduler_stack_bytes);
    return std::move(scheduler);
  });
}

/// Wakes the threads begin … end - 1 if all of them wait in `state`, or else have ended where that is allowed. False
/// where none is woken.
bool open_barrier(std::size_t begin, std::size_t end, State state, bool some_may_have_ended) {
  bool any = false;
  for (std::size_t i = begin; i < end; ++i) {
    any = any || fibers[i].state == state;
    if (fibers[i].state != state && !(some_may_have_ended && fibers[i].state == State::ended)) return false;
  }
  for (std::size_t i = begin; i < end; ++i)
    if (fibers[i].state == state) fibers[i].state = State::running;
  return any;
}

std::vector<std::size_t> order_of(std::size_t n, Order order) {
  std::vector<std::size_t> places(n);
  std::iota(places.begin(), places.end(), 0);
  if (order == Order::backward) std::reverse(places.begin(), places.end());
  if (order == Order::shuffled) std::shuffle(places.begin(), places.end(), std::mt19937(1));
  return places;
}

/// The threads of each warp, and the warps, in the order in which they run.
std::vector<std::vector<std::size_t>> warps_of(std::size_t threads, Order order) {
  std::vector<std::vector<std::size_t>> warps;
  std::vector<std::size_t> place((threads + warp_size - 1) / warp_size, threads);
  for (const std::size_t i : order_of(threads, order)) {
    std::size_t& warp = place[i / warp_size];
    if (warp == threads) {
      warp = warps.size();
      warps.emplace_back();
    }
    warps[warp].push_back(i);
  }
  return warps;
}

/// Runs a warp as far as it gets without the others.
void run_warp(const std::vector<std::size_t>& warp, std::size_t threads) {
  const std::size_t begin = warp.front() / warp_size * warp_size;
  do {
    for (const std::size_t i : warp) {
      if (fibers[i].state != State::running) continue;
      current = &fibers[i];
      threadIdx = current->index;
      leave_for_fiber(*current);
    }
  } while (open_barrier(begin, std::min(begin + warp_size, threads), State::exchanging, false));
}

void run_block(std::size_t threads, dim3 block, const std::vector<std::vector<std::size_t>>& warps,
               const std::function<void()>& thread) {
  std::fill(shared.begin(), shared.end(), std::byte{0xFF});
  for (std::size_t i = 0; i < threads; ++i) start(fibers[i], static_cast<unsigned>(i), block, thread);
  do {
    for (const std::vector<std::size_t>& warp : warps) run_warp(warp, threads);
  } while (open_barrier(0, threads, State::waiting_for_block, true));
  for (std::size_t i = 0; i < threads; ++i)
    if (fibers[i].state != State::ended) fail("threads wait for others that have ended or wait elsewhere");
}

}  // namespace

std::string property(const char* name, const char* otherwise) {
  const char* value = std::getenv(("EMULATED_" + std::string(name)).c_str());
  return value != nullptr ? value : otherwise;
}

std::vector<int> visible_devices() {
  std::vector<int> visible;
  if (const char* named = std::getenv("CUDA_VISIBLE_DEVICES")) {
    std::istringstream in(named);
    for (std::string device; std::getline(in, device, ',');) visible.push_back(std::stoi(device));
  } else {
    visible.resize(devices);
    std::iota(visible.begin(), visible.end(), 0);
  }
  return visible;
}

void run(dim3 grid, dim3 block, std::size_t shared_bytes, Order order, const std::function<void()>& thread) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  gridDim = grid;
  const std::vector<std::vector<std::size_t>> warps = warps_of(threads, order);
  blockDim = block;
  running_order = order;
  shared.assign(shared_bytes, {});
  shared.shrink_to_fit();
  for (const std::size_t place : order_of(std::size_t{grid.x} * grid.y * grid.z, order)) {
    blockIdx = dim3(static_cast<unsigned>(place % grid.x), static_cast<unsigned>(place / grid.x % grid.y),
                    static_cast<unsigned>(place / grid.x / grid.y));
    run_block(threads, block, warps, thread);
  }
}

std::byte* dynamic_shared() { return shared.data(); }

void wait_for_block() { wait(State::waiting_for_block); }

unsigned lane() { return current->place % warp_size; }

Order order() { return running_order; }

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated CUDA: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z, what);
  std::abort();
}

const std::uint64_t* exchange(std::uint64_t value) {
  std::uint64_t* const row = slots[current->exchanges++ % 2];
  const unsigned first = current->place - lane();
  if (first + warp_size > blockDim.x * blockDim.y * blockDim.z) fail("a value is asked of a lane that is not there");
  row[current->place] = value;
  wait(State::exchanging);
  return row + first;
}

}  // namespace emulation
