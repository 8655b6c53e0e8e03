#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "mtp/graph/expert_exchange.h"
#include "mtp/parallel/communicator.h"
#include "mtp/tensor/device.h"

namespace mtp::parallel {

/// Groups of `size` consecutive ranks, in which the i-th rank keeps the i-th part of every layer's experts. Ranks that
/// keep the same part, one of each group, share its shards. Collective to make.
class ExpertRanks final : public ExpertExchange {
 public:
  /// `size` must divide the number of ranks. The references must outlive it.
  ExpertRanks(Device& device, const Communicator& ranks, int size)
      : device_(device),
        group_(ranks.split([size](int rank) { return rank / size; })),
        same_part_(ranks.split([size](int rank) { return rank % size; })) {}

  /// This rank's group.
  const Communicator& group() const { return *group_; }
  const Communicator& same_part() const { return *same_part_; }

  Routes route(const Tensor& offsets, bool needs_gradient) const override;
  Tensor send(const Tensor& rows, const Routes& routes) const override;
  Tensor send_back(const Tensor& rows, const Routes& routes) const override;

 private:
  Tensor exchange(const Tensor& rows, const std::vector<std::int64_t>& sent,
                  const std::vector<std::int64_t>& received) const;

  Device& device_;
  const std::unique_ptr<Communicator> group_, same_part_;
};

}  // namespace mtp::parallel
