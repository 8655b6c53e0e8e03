#pragma once

#include "mtp/parallel/communicator.h"

namespace mtp::parallel {

/// The ranks of a job that is only counted (Device::counting): this process is rank 0, and takes it that every other
/// rank does and holds what it does. Tensors stay where they are, and their bytes are counted.
class PretendedRanks final : public Communicator {
 public:
  struct Job {
    int ranks = 1, ranks_per_node = 1;
    /// How tensors of GPUs go from rank to rank: while the device computes, as by NCCL, or through the host.
    bool overlaps = false;
  };
  /// The device must outlive it.
  PretendedRanks(const Job& job, Device& device);

  /// Bytes of tensors that this rank has received from others.
  std::int64_t received() const { return *received_; }

  std::unique_ptr<Communicator> split(const std::function<int(int rank)>& group_of) const override;
  void barrier(std::string_view) const override {}
  using Communicator::sum;
  void sum(std::span<std::int64_t> values, std::string_view) const override {
    for (std::int64_t& value : values) value *= size();
  }
  std::int64_t max(std::int64_t value, std::string_view) const override { return value; }
  std::vector<double> all_gather(std::span<const double> values, std::string_view) const override;
  std::vector<std::string> all_gather(const std::string& text, std::string_view) const override;
  void broadcast(std::span<std::byte>, std::string_view) const override {}
  std::vector<std::vector<std::int64_t>> exchange(const std::vector<std::vector<std::int64_t>>& to_each,
                                                  std::string_view what) const override;

 private:
  PretendedRanks(const PretendedRanks& whole, int ranks, int ranks_per_node);

  std::shared_ptr<std::int64_t> received_;
};

}  // namespace mtp::parallel
