#pragma once

#include <cuda.h>

#include <cstddef>
#include <optional>

#include "../memory.h"

namespace mtp {

/// Ranges of addresses of a GPU, as large as its memory, behind which memory is put bit by bit: what the arena holds
/// grows in one piece. The functions are the driver's, asked for at run time: a program that links the driver's library
/// does not start where there is none.
///
/// Source: CUDA driver API, Virtual Memory Management.
class VirtualMemory {
 public:
  /// Empty where the GPU or its driver does not have it.
  static std::optional<VirtualMemory> of_device(int index);

  Memory::Range reserve(std::size_t bytes) const;
  bool back(Memory::Range& range, std::size_t bytes) const;
  /// Nothing that uses the range may be under way.
  void release(const Memory::Range& range) const;

 private:
  struct Driver {
    decltype(&cuMemGetAllocationGranularity) granularity;
    decltype(&cuMemAddressReserve) reserve;
    decltype(&cuMemAddressFree) free;
    decltype(&cuMemCreate) create;
    decltype(&cuMemRelease) release;
    decltype(&cuMemMap) map;
    decltype(&cuMemUnmap) unmap;
    decltype(&cuMemSetAccess) set_access;
  };

  Driver driver_ = {};
  CUmemAllocationProp properties_ = {};
  std::size_t step_ = 0;  // memory comes in multiples of it
};

}  // namespace mtp
