#include "arena.h"

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "mtp/tensor/out_of_memory.h"

namespace mtp {

namespace {

std::size_t block_size(std::size_t bytes) {
  return (std::max<std::size_t>(bytes, 1) + Memory::alignment - 1) / Memory::alignment * Memory::alignment;
}

}  // namespace

Arena::~Arena() {
  for (const auto& [begin, range] : ranges_) {
    ASAN_UNPOISON_MEMORY_REGION(begin, range.most);
    memory_->release(range.memory);
  }
}

std::shared_ptr<std::byte> Arena::allocate(std::size_t bytes, MemoryUse use) {
  const std::size_t size = block_size(bytes);
  std::byte* block = take(size, use);
  // In builds with the address sanitizer, what a tensor does not hold is out of bounds; else these do nothing.
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
  ASAN_POISON_MEMORY_REGION(block + bytes, size - bytes);
  return {block, [arena = shared_from_this(), size, use](std::byte* p) { arena->give_back(p, size, use); }};
}

std::byte* Arena::take(std::size_t size, MemoryUse use) {
  const std::lock_guard lock(mutex_);
  std::byte* block = take_from_gap(size);
  if (block == nullptr) block = take_from_end(size);
  if (block == nullptr) {
    release_unused();
    block = take_from_end(size);
  }
  if (block == nullptr)
    throw OutOfMemory("memory: {} MiB could not be allocated beside {} MiB in use; {}", size >> 20, in_use() >> 20,
                      memory_->remedy());
  now_.of(use) += static_cast<std::int64_t>(size);
  if (now_.held > most_.held) most_ = now_;
  return block;
}

std::byte* Arena::take_from_gap(std::size_t size) {
  const auto smallest = gaps_by_size_.lower_bound({size, 0, nullptr});
  if (smallest == gaps_by_size_.end()) return nullptr;
  const auto [gap_size, number, block] = *smallest;
  remove_gap(gaps_.find(block));
  if (gap_size > size) add_gap(block + size, gap_size - size);
  return block;
}

std::byte* Arena::take_from_end(std::size_t size) {
  for (const auto& [number, begin] : by_age_) {
    Range& range = ranges_.at(begin);
    if (std::byte* block = begin + range.end; extend(range, range.end + size)) return block;
  }
  Range fresh{.memory = memory_->reserve(size), .number = ranges_so_far_};
  std::byte* begin = fresh.memory.begin;
  if (begin == nullptr) return nullptr;
  if (!extend(fresh, size)) {
    memory_->release(fresh.memory);
    return nullptr;
  }
  ranges_.emplace(begin, fresh);
  by_age_.emplace(ranges_so_far_++, begin);
  return begin;
}

bool Arena::extend(Range& range, std::size_t end) {
  if (end > range.memory.size || (end > range.memory.backed && !memory_->back(range.memory, end))) return false;
  range.end = end;
  if (end <= range.most) return true;
  now_.held += static_cast<std::int64_t>(end - range.most);
  ++fresh_allocations_;
  range.most = end;
  return true;
}

void Arena::give_back(std::byte* block, std::size_t size, MemoryUse use) {
  const std::lock_guard lock(mutex_);
  ASAN_POISON_MEMORY_REGION(block, size);
  now_.of(use) -= static_cast<std::int64_t>(size);
  Range& range = range_of(block);
  // Gaps beside it become one with it; two ranges may lie side by side and do not.
  if (const auto next = gaps_.find(block + size);
      next != gaps_.end() && block + size != range.memory.begin + range.end) {
    size += next->second;
    remove_gap(next);
  }
  const auto after = gaps_.lower_bound(block);
  if (after != gaps_.begin())
    if (const auto before = std::prev(after); before->first + before->second == block && block != range.memory.begin) {
      block = before->first;
      size += before->second;
      remove_gap(before);
    }
  if (block + size == range.memory.begin + range.end)
    range.end -= size;
  else
    add_gap(block, size);
}

void Arena::add_gap(std::byte* begin, std::size_t size) {
  gaps_.emplace(begin, size);
  gaps_by_size_.emplace(size, range_of(begin).number, begin);
}

void Arena::remove_gap(std::map<std::byte*, std::size_t>::iterator gap) {
  gaps_by_size_.erase({gap->second, range_of(gap->first).number, gap->first});
  gaps_.erase(gap);
}

void Arena::keep_for_recorded() {
  const std::lock_guard lock(mutex_);
  for (const auto& [begin, range] : ranges_) ASAN_UNPOISON_MEMORY_REGION(begin, range.most);
}

void Arena::release_unused() {
  std::erase_if(ranges_, [this](const auto& entry) {
    const Range& range = entry.second;
    if (range.end > 0) return false;
    ASAN_UNPOISON_MEMORY_REGION(entry.first, range.most);
    now_.held -= static_cast<std::int64_t>(range.most);
    memory_->release(range.memory);
    by_age_.erase(range.number);
    return true;
  });
}

}  // namespace mtp
