// Stands in for this folder in a build without CUDA.

#include "mtp/ops/cuda_devices.h"

namespace mtp::ops {

CudaDevices find_cuda_devices() { return {0, "built without CUDA (MTP_CUDA)"}; }

}  // namespace mtp::ops
