#include "mtp/parallel/ordered_sum.h"

#include <unordered_map>
#include <utility>
#include <vector>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"

namespace mtp::parallel {

namespace {

/// The different rows in the order of their first place, and for each one its place among them.
std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> distinct(std::span<const std::int64_t> rows) {
  std::vector<std::int64_t> different, place;
  std::unordered_map<std::int64_t, std::int64_t> seen;
  for (const std::int64_t row : rows) {
    const auto [found, is_new] = seen.insert({row, static_cast<std::int64_t>(different.size())});
    if (is_new) different.push_back(row);
    place.push_back(found->second);
  }
  return {different, place};
}

}  // namespace

void OrderedSum::add(Device& device, Tensor leaf, std::int64_t index, std::int64_t count) {
  // The first group is summed in the total itself.
  Tensor& sum = index < group_size ? total_ : group_;
  if (index % group_size != 0) {
    ops::accumulate(device, leaf, sum);
  } else if (leaf.unique()) {
    sum = std::move(leaf);
  } else {
    if (sum.empty()) sum = device.empty(leaf.shape(), DType::f32, MemoryUse::gradient_sums);
    device.copy(leaf, sum);
  }
  end_group(device, index, count);
}

void OrderedSum::add_rows(Device& device, const RowGradients& leaf, const Shape& table, std::int64_t index,
                          std::int64_t count) {
  Tensor& sum = index < group_size ? total_ : group_;
  if (index % group_size == 0) {
    sum = Tensor();
    sum = device.zeros({num_elements(table)}, DType::f32, MemoryUse::gradient_sums);
  }
  // The leaf's rows are summed by themselves first: a leaf has the same bits wherever it is added.
  const auto [rows, row_of] = distinct(leaf.rows);
  const Tensor compact =
      device.zeros({static_cast<std::int64_t>(rows.size()), table[1]}, DType::f32, MemoryUse::gradients);
  ops::lookup_backward(device, leaf.gradients, device.from_host(row_of), 1, -1, compact);
  ops::lookup_backward(device, compact, device.from_host(rows), 1, -1, sum.view(table));
  end_group(device, index, count);
}

void OrderedSum::add_group(Device& device, const Tensor& sum, std::int64_t index) {
  if (index > 0) return ops::accumulate(device, sum, total_);
  if (total_.empty()) total_ = device.empty(sum.shape(), DType::f32, MemoryUse::gradient_sums);
  device.copy(sum, total_);
}

void OrderedSum::end_group(Device& device, std::int64_t index, std::int64_t count) {
  const bool last_of_group = index % group_size == group_size - 1 || index == count - 1;
  if (index >= group_size && last_of_group) ops::accumulate(device, group_, total_);
}

double ordered_sum(std::span<const double> leaves) {
  double total = 0, group = 0;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    group = i % group_size == 0 ? leaves[i] : group + leaves[i];
    if (i % group_size == group_size - 1 || i == leaves.size() - 1) total = i < group_size ? group : total + group;
  }
  return total;
}

}  // namespace mtp::parallel
