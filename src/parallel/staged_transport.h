#pragma once

#include <memory>
#include <string>
#include <utility>

#include "mtp/parallel/transport.h"
#include "mtp/tensor/device.h"

namespace mtp::parallel {

/// Of tensors of a GPU, by a transport that knows the host's memory only: they are copied there and back.
class StagedTransport final : public Transport {
 public:
  StagedTransport(Device& device, std::unique_ptr<Transport> of_hosts, std::string name)
      : device_(device), of_hosts_(std::move(of_hosts)), name_(std::move(name)) {}

  std::unique_ptr<Transport> split(const Communicator& group) override {
    return std::make_unique<StagedTransport>(device_, of_hosts_->split(group), name_);
  }
  std::string name() const override { return name_; }
  bool overlaps() const override { return false; }

  Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) override;
  Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t block, const Peers& peers,
                    std::string_view what) override;
  Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) override;
  Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each, const Tensor& received,
                         const std::vector<std::int64_t>& from_each, std::string_view what) override;

 private:
  /// `move(from, to)` moves a copy of `sent` on the host to where `received` is copied from.
  template <typename Move>
  Transfer staged(const Tensor& sent, const Tensor& received, Move move) const;
  Tensor room_for(const Tensor& tensor) const;

  Device& device_;
  std::unique_ptr<Transport> of_hosts_;
  std::string name_;
};

}  // namespace mtp::parallel
