#pragma once

// The part of CUDA's driver that puts memory behind addresses, on the host's own.

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"

#define CUDART_VERSION 13000

enum CUresult { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY };
using CUdeviceptr = std::uintptr_t;
using CUmemGenericAllocationHandle = std::size_t;  // its size
enum CUmemLocationType { CU_MEM_LOCATION_TYPE_DEVICE };
enum CUmemAllocationType { CU_MEM_ALLOCATION_TYPE_PINNED };
enum CUmemAllocationGranularity_flags { CU_MEM_ALLOC_GRANULARITY_RECOMMENDED };
enum CUmemAccess_flags { CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
struct CUmemLocation {
  CUmemLocationType type;
  int id;
};
struct CUmemAllocationProp {
  CUmemAllocationType type;
  CUmemLocation location;
};
struct CUmemAccessDesc {
  CUmemLocation location;
  CUmemAccess_flags flags;
};

inline CUresult cuMemGetAllocationGranularity(std::size_t* granularity, const CUmemAllocationProp*,
                                              CUmemAllocationGranularity_flags) {
  return *granularity = std::size_t{2} << 20, CUDA_SUCCESS;
}
inline CUresult cuMemAddressReserve(CUdeviceptr* address, std::size_t size, std::size_t, CUdeviceptr,
                                    unsigned long long) {
  void* begin = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *address = reinterpret_cast<CUdeviceptr>(begin);
  return begin == MAP_FAILED ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}
inline CUresult cuMemAddressFree(CUdeviceptr address, std::size_t size) {
  return munmap(reinterpret_cast<void*>(address), size), CUDA_SUCCESS;
}
inline CUresult cuMemCreate(CUmemGenericAllocationHandle* memory, std::size_t size, const CUmemAllocationProp*,
                            unsigned long long) {
  if (emulation::capture.forbids()) return CUDA_ERROR_INVALID_VALUE;
  return *memory = size, CUDA_SUCCESS;
}
inline CUresult cuMemMap(CUdeviceptr, std::size_t size, std::size_t, CUmemGenericAllocationHandle memory,
                         unsigned long long) {
  return size == memory ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
inline CUresult cuMemRelease(CUmemGenericAllocationHandle) { return CUDA_SUCCESS; }
/// Fresh memory is full of NaN.
inline CUresult cuMemSetAccess(CUdeviceptr address, std::size_t size, const CUmemAccessDesc*, std::size_t) {
  void* begin = reinterpret_cast<void*>(address);
  if (mprotect(begin, size, PROT_READ | PROT_WRITE) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
  return std::memset(begin, 0xFF, size), CUDA_SUCCESS;
}
inline CUresult cuMemUnmap(CUdeviceptr address, std::size_t size) {
  return mprotect(reinterpret_cast<void*>(address), size, PROT_NONE) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

inline constexpr unsigned long long cudaEnableDefault = 0;
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
inline cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* found) {
  const struct {
    const char* name;
    void* function;
  } functions[] = {{"cuMemGetAllocationGranularity", reinterpret_cast<void*>(&cuMemGetAllocationGranularity)},
                   {"cuMemAddressReserve", reinterpret_cast<void*>(&cuMemAddressReserve)},
                   {"cuMemAddressFree", reinterpret_cast<void*>(&cuMemAddressFree)},
                   {"cuMemCreate", reinterpret_cast<void*>(&cuMemCreate)},
                   {"cuMemRelease", reinterpret_cast<void*>(&cuMemRelease)},
                   {"cuMemMap", reinterpret_cast<void*>(&cuMemMap)},
                   {"cuMemUnmap", reinterpret_cast<void*>(&cuMemUnmap)},
                   {"cuMemSetAccess", reinterpret_cast<void*>(&cuMemSetAccess)}};
  *found = cudaDriverEntryPointSymbolNotFound;
  for (const auto& entry : functions)
    if (std::strcmp(entry.name, name) == 0) *function = entry.function, *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
