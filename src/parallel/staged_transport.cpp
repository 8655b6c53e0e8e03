#include "staged_transport.h"

namespace mtp::parallel {

Tensor StagedTransport::room_for(const Tensor& tensor) const {
  return device_.empty_on_host(tensor.shape(), tensor.dtype(), MemoryUse::communication);
}

template <typename Move>
Transfer StagedTransport::staged(const Tensor& sent, const Tensor& received, Move move) const {
  const Tensor from = room_for(sent);
  device_.copy_to_host(sent, from);
  const Tensor to = room_for(received);
  move(from, to).finish();
  device_.copy_from_host(to, received);
  return {};
}

Transfer StagedTransport::gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) {
  return staged(shard, whole,
                [&](const Tensor& from, const Tensor& to) { return of_hosts_->gather(from, to, block, what); });
}

Transfer StagedTransport::exchange(const Tensor& slices, const Tensor& received, std::int64_t block, const Peers& peers,
                                   std::string_view what) {
  return staged(slices, received, [&](const Tensor& from, const Tensor& to) {
    return of_hosts_->exchange(from, to, block, peers, what);
  });
}

Transfer StagedTransport::reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) {
  return staged(slices, sum,
                [&](const Tensor& from, const Tensor& to) { return of_hosts_->reduce_scatter(from, to, what); });
}

Transfer StagedTransport::exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each,
                                        const Tensor& received, const std::vector<std::int64_t>& from_each,
                                        std::string_view what) {
  return staged(sent, received, [&](const Tensor& from, const Tensor& to) {
    return of_hosts_->exchange_rows(from, to_each, to, from_each, what);
  });
}

}  // namespace mtp::parallel
