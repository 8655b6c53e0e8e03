// Stands in for the folder cuda in a build without it.

#include "mtp/tensor/device.h"

#include "mtp/tensor/cuda_devices.h"

namespace mtp {

bool is_built_with_cuda() { return false; }

CudaDevices find_cuda_devices() { return {0, "built without CUDA (MTP_CUDA)"}; }

Device Device::cuda(int) { throw Error("device cuda: {}", find_cuda_devices().remark); }
std::string Device::name() const { return "cpu"; }
std::string Device::description() const { return name(); }
std::string Device::identity() const { return {}; }
std::int64_t Device::memory_size() const { return 0; }
void Device::on_wait(Wait) {}

}  // namespace mtp
