#include "arena.h"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "mtp/core/error.h"

namespace mtp {

namespace {

std::size_t block_size(std::size_t bytes) {
  bytes = std::max<std::size_t>(bytes, 1);
  constexpr std::size_t most_wasted = std::size_t{64} << 20;
  const std::size_t step = std::clamp(std::bit_floor(bytes) / 8, Memory::alignment, most_wasted);
  return (bytes + step - 1) / step * step;
}

}  // namespace

std::shared_ptr<std::byte> Arena::allocate(std::size_t bytes) {
  const std::size_t size = block_size(bytes);
  std::byte* block = take(size);
  // In builds with the address sanitizer, what a tensor does not hold is out of bounds; else these do nothing.
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
  ASAN_POISON_MEMORY_REGION(block + bytes, size - bytes);
  return {block, [arena = shared_from_this(), size](std::byte* p) { arena->give_back(p, size); }};
}

std::byte* Arena::take(std::size_t size) {
  const std::lock_guard lock(mutex_);
  in_use_ += static_cast<std::int64_t>(size);
  peak_ = std::max(peak_, in_use_);
  if (auto found = unused_.find(size); found != unused_.end() && !found->second.empty()) {
    std::byte* block = found->second.back();
    found->second.pop_back();
    return block;
  }
  std::byte* block = memory_->allocate(size);
  if (block == nullptr) {
    free_unused();
    block = memory_->allocate(size);
  }
  if (block == nullptr)
    throw Error("memory: {} MiB could not be allocated beside {} MiB in use; {}", size >> 20, in_use_ >> 20,
                memory_->remedy());
  held_ += static_cast<std::int64_t>(size);
  ++fresh_allocations_;
  return block;
}

void Arena::give_back(std::byte* block, std::size_t size) {
  const std::lock_guard lock(mutex_);
  ASAN_POISON_MEMORY_REGION(block, size);
  in_use_ -= static_cast<std::int64_t>(size);
  unused_[size].push_back(block);
}

void Arena::keep_for_recorded() {
  const std::lock_guard lock(mutex_);
  for (auto& [size, blocks] : unused_)
    for (std::byte* block : blocks) ASAN_UNPOISON_MEMORY_REGION(block, size);
}

void Arena::free_unused() {
  for (auto& [size, blocks] : unused_)
    for (std::byte* block : blocks) {
      ASAN_UNPOISON_MEMORY_REGION(block, size);
      memory_->free(block);
      held_ -= static_cast<std::int64_t>(size);
    }
  unused_.clear();
}

}  // namespace mtp
