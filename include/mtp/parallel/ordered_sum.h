#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "mtp/tensor/device.h"

namespace mtp::parallel {

/// Micro-batches that are added up one after another before their sum is added to the total. Part of the definition of
/// a run's numbers: it must not change with the number of ranks.
inline constexpr std::int64_t group_size = 8;

/// Gradients of a table's rows: row rows[i] gets gradients[i], added in the order of i.
struct RowGradients {
  std::vector<std::int64_t> rows;
  Tensor gradients;  // [n, width] fp32
};

/// Σ of a step's micro-batches in the order that defines its bits: left to right in groups of `group_size`, and the
/// groups' sums left to right. Leaves come in order; at most two accumulators are alive.
class OrderedSum {
 public:
  /// Adds leaf `index` of `count`; keeps its memory where nobody else holds it.
  void add(Device& device, Tensor leaf, std::int64_t index, std::int64_t count);
  /// Adds leaf `index` of `count` of which only rows of a table [rows, width] are not zero.
  void add_rows(Device& device, const RowGradients& leaf, const Shape& table, std::int64_t index, std::int64_t count);
  /// Adds the sum of a whole group of leaves, group `index`. All groups of a sum are added so, or none.
  void add_group(Device& device, const Tensor& sum, std::int64_t index);
  /// The sum, once leaf count - 1 has been added.
  const Tensor& total() const { return total_; }
  /// Gives the memory back.
  void clear() { total_ = group_ = Tensor(); }

 private:
  void end_group(Device& device, std::int64_t index, std::int64_t count);

  Tensor total_, group_;
};

/// The same order over numbers.
double ordered_sum(std::span<const double> leaves);

}  // namespace mtp::parallel
