#include "virtual_memory.h"

#include <algorithm>

#include "context.h"

namespace mtp {

namespace {

constexpr unsigned cuda_11 = 11000;  // whose types the functions have had since
/// A call of the driver takes as long for 2 MiB as for many of them.
constexpr std::size_t least_step = std::size_t{32} << 20;

template <typename Function>
bool find(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = {};
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &address, cuda_11, cudaEnableDefault, &found);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
  function = reinterpret_cast<Function>(address);
  return status == cudaSuccess && found == cudaDriverEntryPointSuccess && address != nullptr;
}

std::size_t round_up(std::size_t bytes, std::size_t step) { return (bytes + step - 1) / step * step; }

void check(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) throw Error("GPU memory: {}: the driver's error {}", what, static_cast<int>(result));
}

}  // namespace

std::optional<VirtualMemory> VirtualMemory::of_device(int index) {
  VirtualMemory memory;
  Driver& driver = memory.driver_;
  const bool is_complete = find("cuMemGetAllocationGranularity", driver.granularity) &&
                           find("cuMemAddressReserve", driver.reserve) && find("cuMemAddressFree", driver.free) &&
                           find("cuMemCreate", driver.create) && find("cuMemRelease", driver.release) &&
                           find("cuMemMap", driver.map) && find("cuMemUnmap", driver.unmap) &&
                           find("cuMemSetAccess", driver.set_access);
  memory.properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  memory.properties_.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = index};
  std::size_t granularity = 0;
  if (!is_complete || driver.granularity(&granularity, &memory.properties_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) !=
                          CUDA_SUCCESS)  // not supported
    return {};
  memory.step_ = round_up(least_step, granularity);
  return memory;
}

Memory::Range VirtualMemory::reserve(std::size_t bytes) const {
  CUdeviceptr begin = 0;
  const std::size_t size = round_up(bytes, step_);
  check(driver_.reserve(&begin, size, 0, 0, 0), "addresses");
  return {reinterpret_cast<std::byte*>(begin), size, 0};
}

bool VirtualMemory::back(Memory::Range& range, std::size_t bytes) const {
  const std::size_t size = round_up(bytes, step_) - range.backed;
  const auto begin = reinterpret_cast<CUdeviceptr>(range.begin) + range.backed;
  CUmemGenericAllocationHandle memory = {};
  const CUresult created = driver_.create(&memory, size, &properties_, 0);
  if (created == CUDA_ERROR_OUT_OF_MEMORY) return false;
  check(created, "more of it");
  check(driver_.map(begin, size, 0, memory, 0), "its place");
  check(driver_.release(memory), "its handle");  // it stays as long as it has its place
  const CUmemAccessDesc access = {.location = properties_.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  check(driver_.set_access(begin, size, &access, 1), "access to it");
  range.backed += size;
  return true;
}

// Nothing can be done about an error here.
void VirtualMemory::release(const Memory::Range& range) const {
  const auto begin = reinterpret_cast<CUdeviceptr>(range.begin);
  if (range.backed > 0) driver_.unmap(begin, range.backed);
  driver_.free(begin, range.size);
}

}  // namespace mtp
