#pragma once

#include <cstddef>

namespace mtp {

/// Raw memory of one device, and how bytes get there and back. Copies happen in the order of the device's operations;
/// those from the host have read, and those to the host have written, all host memory when they return.
class Memory {
 public:
  static constexpr std::size_t alignment = 64;

  virtual ~Memory() = default;
  /// Null where there is not enough.
  virtual std::byte* allocate(std::size_t bytes) = 0;
  virtual void free(std::byte* block) = 0;
  /// The host's memory, from and to which the device copies without waiting. Null where there is not enough.
  virtual std::byte* allocate_on_host(std::size_t bytes) = 0;
  virtual void free_on_host(std::byte* block) = 0;
  virtual void set_zero(void* to, std::size_t bytes) = 0;
  /// Both on the device or, for a GPU, in what `allocate_on_host` gave.
  virtual void copy(const void* from, void* to, std::size_t bytes) = 0;
  virtual void copy_from_host(const void* from, void* to, std::size_t bytes) = 0;
  virtual void copy_to_host(const void* from, void* to, std::size_t bytes) = 0;
};

}  // namespace mtp
