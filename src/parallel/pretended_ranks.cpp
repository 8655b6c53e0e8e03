#include "mtp/parallel/pretended_ranks.h"

#include <numeric>
#include <utility>

#include "staged_transport.h"

namespace mtp::parallel {

namespace {

std::int64_t bytes_of(const Tensor& tensor) {
  return tensor.elements() * static_cast<std::int64_t>(size_of(tensor.dtype()));
}

class CountingTransport final : public Transport {
 public:
  CountingTransport(int ranks, bool overlaps, std::shared_ptr<std::int64_t> received)
      : ranks_(ranks), overlaps_(overlaps), received_(std::move(received)) {}

  std::unique_ptr<Transport> split(const Communicator& group) override {
    return std::make_unique<CountingTransport>(group.size(), overlaps_, received_);
  }
  std::string name() const override { return "counting"; }
  bool overlaps() const override { return overlaps_; }

  Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t, std::string_view) override {
    return counted({shard, whole}, bytes_of(whole) - bytes_of(shard));
  }
  Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t, const Peers& peers,
                    std::string_view) override {
    return counted({slices, received}, bytes_of(received) / std::ssize(peers.from) * (std::ssize(peers.from) - 1));
  }
  Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view) override {
    return counted({slices, sum}, bytes_of(sum) * (ranks_ - 1));
  }
  Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>&, const Tensor& received,
                         const std::vector<std::int64_t>& from_each, std::string_view) override {
    const std::int64_t rows = std::reduce(from_each.begin() + 1, from_each.end());
    const std::int64_t row = received.size(1) * static_cast<std::int64_t>(size_of(received.dtype()));
    return counted({sent, received}, rows * row);
  }

 private:
  /// One that is under way holds on to its tensors.
  Transfer counted(std::vector<Tensor> tensors, std::int64_t bytes) {
    *received_ += bytes;
    if (!overlaps_) return {};
    return Transfer([held = std::move(tensors)] {});
  }

  const std::int64_t ranks_;
  const bool overlaps_;
  const std::shared_ptr<std::int64_t> received_;
};

std::unique_ptr<Transport> transport_of(const PretendedRanks::Job& job, Device& device,
                                        std::shared_ptr<std::int64_t> received) {
  const bool overlaps = job.overlaps && device.kind() == Device::Kind::cuda;
  auto counting = std::make_unique<CountingTransport>(job.ranks, overlaps, std::move(received));
  if (device.kind() == Device::Kind::cpu || overlaps) return counting;
  return std::make_unique<StagedTransport>(device, std::move(counting), "counting");
}

}  // namespace

PretendedRanks::PretendedRanks(const Job& job, Device& device)
    : Communicator(job.ranks, job.ranks_per_node), received_(std::make_shared<std::int64_t>(0)) {
  send_by(transport_of(job, device, received_));
}

PretendedRanks::PretendedRanks(const PretendedRanks& whole, int ranks, int ranks_per_node)
    : Communicator(ranks, ranks_per_node), received_(whole.received_) {
  send_by(whole.transport().split(*this));
}

std::unique_ptr<Communicator> PretendedRanks::split(const std::function<int(int rank)>& group_of) const {
  int ranks = 0, on_first_node = 0;
  for (int r = 0; r < size(); ++r) {
    if (group_of(r) != group_of(rank())) continue;
    ++ranks;
    on_first_node += node_of(r) == node_of(rank());
  }
  return std::unique_ptr<Communicator>(new PretendedRanks(*this, ranks, on_first_node));
}

std::vector<double> PretendedRanks::all_gather(std::span<const double> values, std::string_view) const {
  std::vector<double> all;
  for (int r = 0; r < size(); ++r) all.insert(all.end(), values.begin(), values.end());
  return all;
}

std::vector<std::string> PretendedRanks::all_gather(const std::string& text, std::string_view) const {
  return std::vector<std::string>(static_cast<std::size_t>(size()), text);
}

std::vector<std::vector<std::int64_t>> PretendedRanks::exchange(const std::vector<std::vector<std::int64_t>>& to_each,
                                                                std::string_view) const {
  return std::vector<std::vector<std::int64_t>>(to_each.size(), to_each[rank()]);
}

}  // namespace mtp::parallel
