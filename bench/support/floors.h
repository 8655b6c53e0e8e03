#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"
#include "mtp/tensor/device.h"

namespace mtp::bench {

/// Work that memory limits. On a range that a CPU's caches do not hold, a run does a part of it and the next one goes
/// on there: short runs are seldom interrupted. On a GPU a run does the whole.
struct MemoryWork {
  std::function<void()> run;
  double bytes = 0;  // read and written by a run
};
/// Copies half of `range` bytes to the other half.
MemoryWork copy_work(Device& device, std::int64_t range);
/// Changes every float of `range` bytes: no line is read in vain before it is written.
MemoryWork update_work(Device& device, std::int64_t range);

/// Ranges that bandwidth is measured on, from what a core's own caches, or a GPU's, hold to what only memory does.
const std::vector<std::int64_t>& memory_ranges(Device::Kind kind);

/// Square products of a library: on a CPU one in fp32 for each thread, all at once, on a GPU one in `type`. `check`:
/// throws Error where a result is wrong.
struct MatrixProduct {
  std::function<void()> run, check;
  double flops = 0;
};
MatrixProduct matrix_products(Device& device, std::int64_t size, DType type);
const std::vector<std::int64_t>& matrix_sizes(Device::Kind kind);
/// The types that have a rate of their own: on a CPU, bf16 is multiplied as fp32.
const std::vector<DType>& matrix_types(Device::Kind kind);

/// What a run needs at the least.
struct Amount {
  double bytes = 0;               // read and written
  double flops = 0;               // of matrix products: a multiplication and an addition are two
  double range = 0;               // bytes of memory that runs come back to; 0: as many as `bytes`
  DType flops_type = DType::f32;  // of the factors
};

/// What this machine can do at best, measured on all ranks at once when first asked for: the figure of the slowest
/// rank. Collective.
class Floors {
 public:
  /// On the devices that `settings.run` asks for.
  Floors(const parallel::Communicator& communicator, const Settings& settings, Device::Kind device_kind)
      : communicator_(communicator), settings_(settings), device_kind_(device_kind) {}

  /// Bytes read and written in a second by the better of copies and updates, on the largest range measured that is not
  /// above this one.
  double bandwidth(double range);
  /// Floating-point operations in a second of the best matrix products of this type.
  double matrix_rate(DType type);
  /// The least seconds in which the bytes can be moved and the FLOPs done, one beside the other.
  double time(const Amount& amount);

 private:
  double best_rate(Device& device, double amount, const std::function<void()>& work) const;

  const parallel::Communicator& communicator_;
  Settings settings_;
  Device::Kind device_kind_;
  std::map<std::int64_t, double> bandwidths_;  // by range
  std::map<DType, double> matrix_rates_;
};

}  // namespace mtp::bench
