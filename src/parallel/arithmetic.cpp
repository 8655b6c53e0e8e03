#include "mtp/parallel/arithmetic.h"

#include <algorithm>

#include "mtp/ops/libraries.h"
#include "nccl_transport.h"

namespace mtp::parallel {

namespace {

std::string arithmetic_of_rank(const Device& device) {
  std::string text = fmt::format("{}, {}", device.description(), ops::product_library(device));
  if (device.kind() == Device::Kind::cuda && is_built_with_nccl()) text += ", " + nccl_version();
  return text;
}

}  // namespace

std::string arithmetic_of(const Communicator& communicator, const Device& device) {
  const std::vector<std::string> of_ranks =
      communicator.all_gather(arithmetic_of_rank(device), "the ranks' devices and libraries");
  const auto other = std::ranges::find_if(of_ranks, [&](const std::string& text) { return text != of_ranks[0]; });
  if (other == of_ranks.end()) return of_ranks[0];
  throw AgreedError(fmt::format("run.device: rank 0 has {}, rank {} has {}: they would compute other bits; use nodes "
                                "that are alike",
                                of_ranks[0], other - of_ranks.begin(), *other),
                    2);
}

}  // namespace mtp::parallel
