// Groups of micro-batches that are added up inside a node first: the same bits as where every owner adds up all leaves.

#include <gtest/gtest.h>

#include <cmath>

#include "mtp/dist/sharded_unit.h"

namespace mtp::dist {
namespace {

constexpr int ranks_per_node = 8;
constexpr std::int64_t rows = 700, width = 24, steps = 2, rounds = 2;  // rounds of a micro-batch on every rank

float gradient(std::int64_t micro_batch, std::int64_t element) {
  return std::exp(std::sin(static_cast<float>(element * 31 + micro_batch * 7)) * 6.0f);
}

/// On any number of ranks: nodes of eight make a difference where there are two or more.
class NodesTest : public testing::TestWithParam<std::pair<bool, bool>> {
 protected:
  /// The sums of this rank's shard after the last step.
  std::vector<float> sums(const Communicator& communicator) {
    const auto [dense, with_rows] = GetParam();
    Device device(1);
    const std::int64_t ranks = communicator.size();
    Sharding sharding{device, communicator, Reduction::ordered, ranks * rounds};
    ShardedUnit unit(UnitLayout("table", true, {{"t", {rows, width}, 0}}), sharding);
    for (std::int64_t m = communicator.rank(); m < steps * rounds * ranks; m += ranks) {
      sharding.begin_micro_batches(m / ranks % rounds * ranks);
      if (dense) {
        const Tensor g = unit.gradient(0);
        for (std::int64_t e = 0; e < rows * width; ++e) g.f32()[e] += gradient(m, e);
      }
      if (with_rows) unit.add_row_gradients(row_gradients(device, m));
      unit.reduce_gradients();
      sharding.end_micro_batches();
    }
    std::vector<float> values(static_cast<std::size_t>(unit.gradient_sum().elements()));
    device.to_host(unit.gradient_sum(), values);
    return values;
  }

 private:
  /// Some rows twice, the skipped one among them, from all over the table.
  static RowGradients row_gradients(Device& device, std::int64_t m) {
    std::vector<std::int64_t> ids{3, 0, rows - 1, 17, 17};
    for (std::int64_t i = 0; i < 20 + m; ++i) ids.push_back((i * 131 + m * 37) % rows);
    std::vector<float> gradients;
    for (std::size_t e = 0; e < ids.size() * width; ++e) gradients.push_back(gradient(m + 1, static_cast<int>(e)));
    return {.ids = device.from_host(ids),
            .gradients = device.from_host(gradients, {static_cast<std::int64_t>(ids.size()), width}),
            .factor = 0.3f,
            .skip = 3};
  }
};

TEST_P(NodesTest, GroupsThatAreAddedUpWithinANodeGiveTheSameBits) {
  const Communicator one_node, nodes(ranks_per_node);
  ASSERT_EQ(one_node.nodes(), 1);
  ASSERT_EQ(nodes.nodes(), (nodes.size() + ranks_per_node - 1) / ranks_per_node);
  ASSERT_EQ(nodes.nodes_hold_whole_groups(group_size), nodes.size() % ranks_per_node == 0);
  const std::vector<float> plain = sums(one_node), node_first = sums(nodes);
  ASSERT_EQ(plain.size(), node_first.size());
  for (std::size_t i = 0; i < plain.size(); ++i) ASSERT_EQ(node_first[i], plain[i]) << "element " << i;
}

INSTANTIATE_TEST_SUITE_P(, NodesTest,
                         testing::Values(std::pair(true, false), std::pair(true, true), std::pair(false, true)),
                         [](const auto& way) {
                           return std::string(way.param.first ? "dense" : "") + (way.param.second ? "rows" : "");
                         });

}  // namespace
}  // namespace mtp::dist
