#pragma once

#include <cstddef>
#include <string_view>

namespace mtp {

/// Raw memory of one device, and how bytes get there and back. Copies happen in the order of the device's operations;
/// those from the host have read, and those to the host have written, all host memory when they return.
class Memory {
 public:
  static constexpr std::size_t alignment = 256;

  /// Consecutive addresses, and how many bytes from the first on have memory behind them.
  struct Range {
    std::byte* begin = nullptr;
    std::size_t size = 0, backed = 0;
  };

  virtual ~Memory() = default;
  /// A range of `bytes` or more: as large as addresses cost nothing, and `back` puts memory behind them, or backed as a
  /// whole. `begin` is null where there is not enough.
  virtual Range reserve(std::size_t bytes) = 0;
  /// Puts memory behind at least the first `bytes` of a range. False where there is not enough.
  virtual bool back(Range& range, std::size_t bytes) = 0;
  virtual void release(const Range& range) = 0;
  /// What to do where there is not enough.
  virtual std::string_view remedy() const { return "use more ranks or train.recompute true"; }
  virtual void set_zero(void* to, std::size_t bytes) = 0;
  /// Both on the device or, for a GPU, in pinned memory of the host.
  virtual void copy(const void* from, void* to, std::size_t bytes) = 0;
  virtual void copy_from_host(const void* from, void* to, std::size_t bytes) = 0;
  virtual void copy_to_host(const void* from, void* to, std::size_t bytes) = 0;
};

}  // namespace mtp
