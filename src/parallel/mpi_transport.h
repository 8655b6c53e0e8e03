#pragma once

#include <memory>
#include <string>

#include "mtp/parallel/communicator.h"

namespace mtp::parallel {

/// Of tensors in the host's memory, over MPI.
class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(const Communicator& communicator) : communicator_(communicator) {}

  std::unique_ptr<Transport> split(const Communicator& group) override { return std::make_unique<MpiTransport>(group); }
  std::string name() const override { return "MPI"; }
  bool overlaps() const override { return false; }

  Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) override;
  Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t block, const Peers& peers,
                    std::string_view what) override;
  Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) override;
  Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each, const Tensor& received,
                         const std::vector<std::int64_t>& from_each, std::string_view what) override;

 private:
  const Communicator& communicator_;
};

}  // namespace mtp::parallel
