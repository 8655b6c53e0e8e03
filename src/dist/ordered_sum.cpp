#include "mtp/dist/ordered_sum.h"

#include "mtp/ops/elementwise.h"

namespace mtp::dist {

void OrderedSum::add(Device& device, Tensor leaf, std::int64_t index, std::int64_t count) {
  // The first group is summed in the total itself.
  Tensor& sum = index < group_size ? total_ : group_;
  if (index % group_size != 0) {
    ops::accumulate(device, leaf, sum);
  } else if (leaf.unique()) {
    sum = std::move(leaf);
  } else {
    if (sum.empty()) sum = device.empty(leaf.shape());
    device.copy(leaf, sum);
  }
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

}  // namespace mtp::dist
