// Stands in for the folder cuda in a build without NCCL.

#include "../nccl_transport.h"

namespace mtp::parallel {

bool is_built_with_nccl() { return false; }

std::string nccl_version() { return {}; }

std::unique_ptr<Transport> make_nccl_transport(const Communicator&, Device&) {
  throw Error("NCCL: this program was built without it");
}

}  // namespace mtp::parallel
