#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mtp/tensor/tensor.h"

namespace mtp::parallel {

class Communicator;

/// A collective of tensors that has been started, and holds on to them.
class Transfer {
 public:
  Transfer() = default;
  explicit Transfer(std::function<void()> finish) : finish_(std::move(finish)) {}

  /// The device's operations from here on may use what was received and write over what was sent. Must be called
  /// before the tensors are given away; the host does not wait for a GPU.
  void finish() {
    if (finish_) std::exchange(finish_, nullptr)();
  }

 private:
  std::function<void()> finish_;
};

/// How tensors of one device get from rank to rank. Collective; what the members of `Communicator` with the same names
/// say holds here too. A tensor that is sent has what the device's operations before the call give it.
class Transport {
 public:
  virtual ~Transport() = default;

  /// The same for a group of the ranks: see Communicator::split. Collective among all ranks; `group` must outlive it.
  virtual std::unique_ptr<Transport> split(const Communicator& group) = 0;

  /// For the log.
  virtual std::string name() const = 0;
  /// Whether the device computes while collectives are under way. Else they have finished when they return.
  virtual bool overlaps() const = 0;

  [[nodiscard]] virtual Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t block,
                                        std::string_view what) = 0;

  /// Who exchanges slices: slice k goes to rank to[k], and what rank from[k] sends becomes slice k. Equally many; in
  /// the order of the ranks.
  struct Peers {
    std::vector<int> to, from;
  };
  [[nodiscard]] virtual Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t block,
                                          const Peers& peers, std::string_view what) = 0;
  /// sum = Σ over ranks of their slice `rank`, in an order that the transport chooses.
  /// slices [size · n], sum [n] fp32
  [[nodiscard]] virtual Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) = 0;
  /// Counts of rows by rank.
  [[nodiscard]] virtual Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each,
                                               const Tensor& received, const std::vector<std::int64_t>& from_each,
                                               std::string_view what) = 0;

  /// Aborts what is in flight on this rank, because the job ends. Takes seconds at most.
  virtual void abandon() {}
};

}  // namespace mtp::parallel
