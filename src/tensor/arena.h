#pragma once

#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "memory.h"
#include "mtp/tensor/memory_use.h"

namespace mtp {

/// Hands out blocks of memory and takes them back for reuse: fresh memory from the system costs more than many of the
/// operations that fill it. Blocks are cut from ranges of addresses, from the smallest gap that they fit into, and a
/// gap grows with what is free beside it; so what is held stays close to what is in use, whatever the sizes. A block
/// goes where the blocks that are there decide, never where earlier ones were, and ranges are told apart by their age,
/// never by their addresses: the same calls from the same state hold as much and give the same places.
///
/// A block is free again as soon as the last tensor in it is gone, although operations of a device with a stream may
/// still be under way: whoever gets it next uses it in later operations of the same stream.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  explicit Arena(std::shared_ptr<Memory> memory) : memory_(std::move(memory)) {}
  ~Arena();

  std::shared_ptr<std::byte> allocate(std::size_t bytes, MemoryUse use);

  Memory& memory() const { return *memory_; }
  const std::shared_ptr<Memory>& shared_memory() const { return memory_; }
  /// Bytes of the blocks that are in use.
  std::int64_t in_use() const { return now_.in_use(); }
  /// Of when the most was held: bytes that are or were part of a block, which the system does not get back.
  const MemoryAccounts& most() const { return most_; }
  /// How often more had to be held.
  std::int64_t fresh_allocations() const { return fresh_allocations_; }

  /// Recorded operations go on to use what is free now: none of it is out of bounds of a tensor to the address
  /// sanitizer.
  void keep_for_recorded();

 private:
  /// From byte `end` on a range has no block, up to byte `most` it has had some.
  struct Range {
    Memory::Range memory;
    std::size_t end = 0, most = 0;
    std::int64_t number = 0;  // by age
  };
  using Ranges = std::map<std::byte*, Range>;                     // by their first address
  using Gap = std::tuple<std::size_t, std::int64_t, std::byte*>;  // size, number of its range, first address

  std::byte* take(std::size_t size, MemoryUse use);
  /// Null where no gap is large enough.
  std::byte* take_from_gap(std::size_t size);
  /// Behind the last block of a range. Null where there is not enough memory.
  std::byte* take_from_end(std::size_t size);
  bool extend(Range& range, std::size_t end);
  Range& range_of(std::byte* block) { return std::prev(ranges_.upper_bound(block))->second; }
  void give_back(std::byte* block, std::size_t size, MemoryUse use);
  void add_gap(std::byte* begin, std::size_t size);
  void remove_gap(std::map<std::byte*, std::size_t>::iterator gap);
  /// Ranges without a block.
  void release_unused();

  const std::shared_ptr<Memory> memory_;
  std::mutex mutex_;
  Ranges ranges_;
  std::map<std::int64_t, std::byte*> by_age_;  // the same: first address by number
  std::int64_t ranges_so_far_ = 0;
  std::map<std::byte*, std::size_t> gaps_;  // between blocks of a range: size by first address
  std::set<Gap> gaps_by_size_;              // the same
  MemoryAccounts now_, most_;
  std::int64_t fresh_allocations_ = 0;
};

}  // namespace mtp
