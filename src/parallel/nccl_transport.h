#pragma once

#include <memory>

#include "mtp/parallel/communicator.h"

namespace mtp::parallel {

bool is_built_with_nccl();
/// "NCCL 2.28.9"
std::string nccl_version();

/// Between GPUs, of which each rank has its own. Collective.
std::unique_ptr<Transport> make_nccl_transport(const Communicator& communicator, Device& device);

}  // namespace mtp::parallel
