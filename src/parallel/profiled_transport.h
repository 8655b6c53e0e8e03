#pragma once

#include <memory>
#include <string>
#include <utility>

#include "mtp/parallel/transport.h"
#include "mtp/tensor/device.h"

namespace mtp::parallel {

/// Another transport, whose collectives the device's profile sees: of those that overlap with computing what the device
/// waits for their end, of others all.
class ProfiledTransport final : public Transport {
 public:
  ProfiledTransport(std::unique_ptr<Transport> transport, const Device& device)
      : transport_(std::move(transport)), device_(device) {}

  std::unique_ptr<Transport> split(const Communicator& group) override {
    return std::make_unique<ProfiledTransport>(transport_->split(group), device_);
  }
  std::string name() const override { return transport_->name(); }
  bool overlaps() const override { return transport_->overlaps(); }

  Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) override;
  Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t block, const Peers& peers,
                    std::string_view what) override;
  Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) override;
  Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each, const Tensor& received,
                         const std::vector<std::int64_t>& from_each, std::string_view what) override;
  void abandon() override { transport_->abandon(); }

 private:
  template <typename Start>
  Transfer profiled(const char* name, Start start);

  std::unique_ptr<Transport> transport_;
  const Device& device_;
};

}  // namespace mtp::parallel
