#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"

namespace mtp {

/// Hands out blocks of memory and takes them back for reuse: fresh memory from the system costs more than many of the
/// operations that fill it. Blocks come in eight sizes per power of two, so that at most an eighth is wasted, and never
/// more than 64 MiB, as shards are large. A block is free again as soon as the last tensor in it is gone, although
/// operations of a device with a stream may still be under way: whoever gets it next uses it in later operations of the
/// same stream.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  explicit Arena(std::shared_ptr<Memory> memory) : memory_(std::move(memory)) {}
  ~Arena() { free_unused(); }

  std::shared_ptr<std::byte> allocate(std::size_t bytes);

  Memory& memory() const { return *memory_; }
  std::int64_t in_use() const { return in_use_; }
  std::int64_t peak() const { return peak_; }
  std::int64_t held() const { return held_; }
  std::int64_t fresh_allocations() const { return fresh_allocations_; }

 private:
  std::byte* take(std::size_t size);
  void give_back(std::byte* block, std::size_t size);
  void free_unused();

  const std::shared_ptr<Memory> memory_;
  std::mutex mutex_;
  std::map<std::size_t, std::vector<std::byte*>> unused_;
  std::int64_t in_use_ = 0, peak_ = 0, held_ = 0, fresh_allocations_ = 0;
};

}  // namespace mtp
