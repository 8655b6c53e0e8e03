#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "mtp/dist/communicator.h"
#include "mtp/tensor/device.h"

namespace mtp::bench {

/// Work that memory limits. On a range that caches do not hold, a run does a part of it and the next one goes on there:
/// short runs are seldom interrupted.
struct MemoryWork {
  std::function<void()> run;
  double bytes = 0;  // read and written by a run
};
/// Copies half of `range` bytes to the other half.
MemoryWork copy_work(Device& device, std::int64_t range);
/// Adds one to every float of `range` bytes: no line is read in vain before it is written.
MemoryWork update_work(Device& device, std::int64_t range);

/// Ranges that bandwidth is measured on, from what a core's own caches hold to what only memory does.
const std::vector<std::int64_t>& memory_ranges();

/// One square fp32 product of the library's for each thread of the device, all at once. `check`: throws Error where a
/// result is wrong.
struct MatrixProduct {
  std::function<void()> run, check;
  double flops = 0;
};
MatrixProduct matrix_products(Device& device, std::int64_t size);
const std::vector<std::int64_t>& matrix_sizes();

/// What a run needs at the least.
struct Amount {
  double bytes = 0;  // read and written
  double flops = 0;  // of matrix products: a multiplication and an addition are two
  double range = 0;  // bytes of memory that runs come back to; 0: as many as `bytes`
};

/// What this machine can do at best, measured on all ranks at once when first asked for: the figure of the slowest
/// rank. Collective.
class Floors {
 public:
  Floors(const dist::Communicator& communicator, int threads) : communicator_(communicator), threads_(threads) {}

  /// Bytes read and written in a second by the better of copies and updates, on the largest range measured that is not
  /// above this one.
  double bandwidth(double range);
  /// Floating-point operations in a second of the best fp32 matrix products.
  double matrix_rate();
  /// The least seconds in which the bytes can be moved and the FLOPs done, one beside the other.
  double time(const Amount& amount);

 private:
  double best_rate(double amount, const std::function<void()>& work) const;

  const dist::Communicator& communicator_;
  int threads_;
  std::map<std::int64_t, double> bandwidths_;  // by range
  std::optional<double> matrix_rate_;
};

}  // namespace mtp::bench
