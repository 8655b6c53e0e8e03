#pragma once

#include <cstddef>
#include <string_view>

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
  /// What to do where there is not enough.
  virtual std::string_view remedy() const { return "use more ranks or train.recompute true"; }
  virtual void set_zero(void* to, std::size_t bytes) = 0;
  /// Both on the device or, for a GPU, in pinned memory of the host.
  virtual void copy(const void* from, void* to, std::size_t bytes) = 0;
  virtual void copy_from_host(const void* from, void* to, std::size_t bytes) = 0;
  virtual void copy_to_host(const void* from, void* to, std::size_t bytes) = 0;
};

}  // namespace mtp
