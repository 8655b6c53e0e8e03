#include "profiled_transport.h"

#include "mtp/tensor/profile.h"

namespace mtp::parallel {

template <typename Start>
Transfer ProfiledTransport::profiled(const char* name, Start start) {
  if (overlaps())
    return Transfer(
        [this, name, transfer = start()]() mutable { device_.profile().measure(name, [&] { transfer.finish(); }); });
  Transfer transfer;
  device_.profile().measure(name, [&] { transfer = start(); });
  return transfer;
}

Transfer ProfiledTransport::gather(const Tensor& shard, const Tensor& whole, std::int64_t block,
                                   std::string_view what) {
  return profiled("gather", [&] { return transport_->gather(shard, whole, block, what); });
}

Transfer ProfiledTransport::exchange(const Tensor& slices, const Tensor& received, std::int64_t block,
                                     const Peers& peers, std::string_view what) {
  return profiled("exchange", [&] { return transport_->exchange(slices, received, block, peers, what); });
}

Transfer ProfiledTransport::reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) {
  return profiled("reduce_scatter", [&] { return transport_->reduce_scatter(slices, sum, what); });
}

Transfer ProfiledTransport::exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each,
                                          const Tensor& received, const std::vector<std::int64_t>& from_each,
                                          std::string_view what) {
  return profiled("exchange_rows", [&] { return transport_->exchange_rows(sent, to_each, received, from_each, what); });
}

}  // namespace mtp::parallel
