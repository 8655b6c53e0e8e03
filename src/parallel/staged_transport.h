#pragma once

#include <string>
#include <utility>

#include "mtp/parallel/communicator.h"

namespace mtp::parallel {

/// Over MPI, which knows the host's memory only: tensors of a GPU are copied there and back; those of a CPU are there.
class StagedTransport final : public Transport {
 public:
  /// `device`: null for tensors in the host's memory.
  StagedTransport(const Communicator& communicator, Device* device, std::string name)
      : communicator_(communicator), device_(device), name_(std::move(name)) {}

  std::string name() const override { return name_; }
  bool overlaps() const override { return false; }

  Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) override;
  Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t block, const Peers& peers,
                    std::string_view what) override;
  Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) override;
  Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each, const Tensor& received,
                         const std::vector<std::int64_t>& from_each, std::string_view what) override;

 private:
  /// A tensor's values, and room for them, where MPI finds them.
  Tensor on_host(const Tensor& sent) const;
  Tensor room_for(const Tensor& received) const;
  void deliver(const Tensor& on_host, const Tensor& received) const;

  const Communicator& communicator_;
  Device* device_;
  std::string name_;
};

}  // namespace mtp::parallel
