#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "mtp/dist/communicator.h"
#include "mtp/tensor/device.h"

namespace mtp::bench {

/// Copies half of `bytes` to the other half with all threads of the device, so that `bytes` are moved.
std::function<void()> copy_work(Device& device, std::int64_t bytes);

/// Bytes that copies are measured with, from what a core's own caches hold to what only memory does.
const std::vector<std::int64_t>& copy_sizes();

/// One square fp32 product of the library's for each thread of the device, all at once. `check`: throws Error where a
/// result is wrong.
struct MatrixProduct {
  std::function<void()> run, check;
  double flops = 0;
};
MatrixProduct matrix_products(Device& device, std::int64_t size);
const std::vector<std::int64_t>& matrix_sizes();

/// What this machine can do at best, measured on all ranks at once when first asked for: the figure of the slowest
/// rank. Collective.
class Floors {
 public:
  Floors(const dist::Communicator& communicator, int threads) : communicator_(communicator), threads_(threads) {}

  /// Bytes read and written in a second by a copy of the largest size measured that does not move more than `bytes`.
  double copy_bandwidth(double bytes);
  /// Floating-point operations in a second of the best fp32 matrix products.
  double matrix_rate();
  /// The least time in which `bytes` can be moved and `flops` of matrix products done, one beside the other.
  double time(double bytes, double flops);

 private:
  double best_rate(double amount, const std::function<void()>& work) const;

  const dist::Communicator& communicator_;
  int threads_;
  std::map<std::int64_t, double> copy_bandwidths_;  // by bytes moved
  std::optional<double> matrix_rate_;
};

}  // namespace mtp::bench
