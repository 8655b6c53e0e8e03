#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <string>

namespace mtp {

/// What memory of a device is for, in its accounts.
enum class MemoryUse {
  weights,          // the shards that a rank keeps
  rounded_weights,  // the same in the type that is computed with
  moments,          // of the optimizer
  gradient_sums,    // of a rank's shards, over a step's micro-batches
  gradients,        // of a micro-batch, of whole units
  gathered,         // whole units, while they are in use
  activations,      // values of a forward and their gradients, and all else that is given no other use
  logits,           // within losses and choices, beside their operands
  operations,       // within all other operations
  communication,    // what ranks send and receive
};
inline constexpr std::size_t memory_uses = 10;

/// As accounts name it: "gradient sums".
std::string to_string(MemoryUse use);

/// What an arena held when it last had to hold more.
struct MemoryAccounts {
  std::int64_t held = 0;                                 // bytes, gaps included
  std::array<std::int64_t, memory_uses> in_use_by = {};  // by MemoryUse

  std::int64_t& of(MemoryUse use) { return in_use_by[static_cast<std::size_t>(use)]; }
  std::int64_t of(MemoryUse use) const { return in_use_by[static_cast<std::size_t>(use)]; }
  std::int64_t in_use() const { return std::reduce(in_use_by.begin(), in_use_by.end()); }
  std::int64_t gaps() const { return held - in_use(); }  // between what is in use

  bool operator==(const MemoryAccounts&) const = default;
};

}  // namespace mtp
