#pragma once

#include <memory>

#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"

namespace mtp::parallel {

/// Lets the ranks exchange tensors of their devices, all CPUs or all GPUs, for as long as it lives:
///
///   CPUs     over MPI
///   nccl     each rank has a GPU of its own
///   staged   through pinned memory of the host, over MPI
///
/// Collective. Throws AgreedError where the choice is impossible.
class Connection {
 public:
  Connection(Communicator& communicator, Device& device, TransportChoice choice);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

 private:
  Communicator& communicator_;
  std::unique_ptr<Transport> transport_;
};

}  // namespace mtp::parallel
