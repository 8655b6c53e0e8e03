#include "mtp/parallel/connection.h"

#include <algorithm>
#include <cstdlib>

#include "mpi_transport.h"
#include "nccl_transport.h"
#include "profiled_transport.h"
#include "staged_transport.h"

namespace mtp::parallel {

namespace {

AgreedError refused(const std::string& why) {
  return {fmt::format("setting dist.transport: nccl cannot be used: {}; use auto or staged", why), 2};
}

/// What NCCL compares: the GPU and the machine, to which NCCL_HOSTID gives another name.
std::string place_of(const Device& device) {
  const char* host = std::getenv("NCCL_HOSTID");
  return device.identity() + (host != nullptr ? host : "");
}

/// Two ranks with the same GPU, as far as NCCL knows, if there are any.
std::optional<std::pair<int, int>> ranks_of_one_gpu(const Communicator& communicator, const Device& device) {
  const std::vector<std::string> gpus = communicator.all_gather(place_of(device), "the identities of the GPUs");
  for (auto gpu = gpus.begin(); gpu != gpus.end(); ++gpu)
    if (const auto again = std::find(gpu + 1, gpus.end(), *gpu); again != gpus.end())
      return std::pair(static_cast<int>(gpu - gpus.begin()), static_cast<int>(again - gpus.begin()));
  return std::nullopt;
}

std::unique_ptr<Transport> make_transport(const Communicator& communicator, Device& device, TransportChoice choice) {
  if (device.kind() == Device::Kind::cpu) {
    if (choice == TransportChoice::nccl) throw refused("it moves tensors of GPUs, and run.device is the cpu");
    return std::make_unique<MpiTransport>(communicator);
  }
  const auto staged = [&](const std::string& why) {
    return std::make_unique<StagedTransport>(device, std::make_unique<MpiTransport>(communicator),
                                             fmt::format("MPI, staged through the host ({})", why));
  };
  const auto shared = ranks_of_one_gpu(communicator, device);
  const std::string sharing = shared ? fmt::format("ranks {} and {} share a GPU", shared->first, shared->second) : "";
  if (choice == TransportChoice::nccl) {
    if (!is_built_with_nccl()) throw refused("the program was built without it");
    if (shared) throw refused(sharing);
    return make_nccl_transport(communicator, device);
  }
  if (choice == TransportChoice::staged) return staged(shared ? sharing : "dist.transport");
  if (shared) return staged(sharing);
  if (communicator.size() == 1) return staged("one rank sends nothing");
  if (!is_built_with_nccl()) return staged("built without NCCL");
  return make_nccl_transport(communicator, device);
}

}  // namespace

Connection::Connection(Communicator& communicator, Device& device, TransportChoice choice)
    : communicator_(communicator),
      transport_(std::make_unique<ProfiledTransport>(make_transport(communicator, device, choice), device)) {
  communicator_.transport_ = transport_.get();
}

Connection::~Connection() { communicator_.transport_ = communicator_.own_transport_.get(); }

}  // namespace mtp::parallel
