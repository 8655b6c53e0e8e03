#pragma once

#include <string>

namespace mtp {

/// The CUDA devices that this program could use.
struct CudaDevices {
  int count = 0;
  std::string remark;  // why there is none, or the runtime's version
};

/// Whether this program has a back end for them.
bool is_built_with_cuda();

/// Never fails: a program that was built with CUDA also starts where there is no driver.
CudaDevices find_cuda_devices();

}  // namespace mtp
