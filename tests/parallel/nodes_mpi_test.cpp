// Groups of micro-batches that are added up inside a node first: the same bits as where every owner adds up all leaves.

#include <gtest/gtest.h>

#include <cmath>
#include <deque>

#include "mtp/parallel/connection.h"
#include "mtp/parallel/sharded_unit.h"
#include "mtp/tensor/cuda_devices.h"

namespace mtp::parallel {
namespace {

constexpr int ranks_per_node = 8;
constexpr std::int64_t rows = 700, width = 24, steps = 2, rounds = 2;  // rounds of a micro-batch on every rank

float gradient(std::int64_t micro_batch, std::int64_t element) {
  return std::exp(std::sin(static_cast<float>(element * 31 + micro_batch * 7)) * 6.0f);
}

struct Case {
  bool is_dense, has_rows;
  Device::Kind device;
};

class NodesTest : public testing::TestWithParam<Case> {
 protected:
  /// The sums of this rank's shard after the last step.
  static std::vector<float> sums(const Communicator& communicator, Device& device) {
    const std::int64_t ranks = communicator.size();
    Sharding sharding{device, communicator, Reduction::ordered, ranks * rounds};
    std::deque<ShardedUnit> units;  // two, so that the one's sums are under way while the other's begin
    for (const char* name : {"table", "other"})
      units.emplace_back(UnitLayout(name, true, {{"t", {rows, width}, 0}}), sharding);
    for (std::int64_t m = communicator.rank(); m < steps * rounds * ranks; m += ranks) {
      sharding.begin_micro_batches(m / ranks % rounds * ranks);
      for (ShardedUnit& unit : units) give_gradients(device, unit, &unit == &units[0] ? m : m + 5);
      sharding.end_micro_batches();
    }
    std::vector<float> all;
    for (const ShardedUnit& unit : units) {
      std::vector<float> values(static_cast<std::size_t>(unit.gradient_sum().elements()));
      device.to_host(unit.gradient_sum(), values);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }

 private:
  static void give_gradients(Device& device, ShardedUnit& unit, std::int64_t m) {
    if (GetParam().is_dense) {
      std::vector<float> values;
      for (std::int64_t e = 0; e < rows * width; ++e) values.push_back(gradient(m, e));
      device.copy(device.from_host(values, {rows, width}), unit.gradient(0));
    }
    if (GetParam().has_rows) give_row_gradients(device, unit, m);
    unit.reduce_gradients();
  }

  /// Some rows twice, the skipped one among them, from all over the table.
  static void give_row_gradients(Device& device, ShardedUnit& unit, std::int64_t m) {
    std::vector<std::int64_t> ids{3, 0, rows - 1, 17, 17};
    for (std::int64_t i = 0; i < 20 + m; ++i) ids.push_back((i * 131 + m * 37) % rows);
    std::vector<float> gradients;
    for (std::size_t e = 0; e < ids.size() * width; ++e)
      gradients.push_back(gradient(m + 1, static_cast<std::int64_t>(e)));
    const Shape shape{static_cast<std::int64_t>(ids.size()), width};
    unit.add_row_gradients(Tokens::known(device, ids, 3), device.from_host(gradients, shape), 0.3f);
  }
};

TEST_P(NodesTest, GroupsThatAreAddedUpWithinANodeGiveTheSameBits) {
  const Communicator one_node;
  const bool is_gpu = GetParam().device == Device::Kind::cuda;
  const int gpus = find_cuda_devices().count, rank = one_node.rank();
  if (is_gpu && gpus < one_node.size()) GTEST_SKIP() << "skipped: no CUDA device for each rank";
  Communicator nodes(ranks_per_node);
  ASSERT_EQ(one_node.nodes(), 1);
  ASSERT_EQ(nodes.nodes(), (nodes.size() + ranks_per_node - 1) / ranks_per_node);
  ASSERT_EQ(nodes.nodes_hold_whole_groups(group_size), nodes.size() % ranks_per_node == 0);
  Device cpu(1), device = is_gpu ? Device::cuda(rank) : Device(1);
  const Connection connection(nodes, device, is_gpu ? TransportChoice::nccl : TransportChoice::automatic);
  const std::vector<float> plain = sums(one_node, cpu), node_first = sums(nodes, device);
  ASSERT_EQ(plain.size(), node_first.size());
  for (std::size_t i = 0; i < plain.size(); ++i) ASSERT_EQ(node_first[i], plain[i]) << "element " << i;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Device::Kind device : {Device::Kind::cpu, Device::Kind::cuda})
    for (const auto& [is_dense, has_rows] : {std::pair(true, false), std::pair(true, true), std::pair(false, true)})
      all.push_back({is_dense, has_rows, device});
  return all;
}

std::string name_of(const testing::TestParamInfo<Case>& test) {
  return fmt::format("{}{}{}", test.param.device == Device::Kind::cpu ? "cpu" : "cuda",
                     test.param.is_dense ? "_dense" : "", test.param.has_rows ? "_rows" : "");
}

INSTANTIATE_TEST_SUITE_P(Devices, NodesTest, testing::ValuesIn(cases()), name_of);

}  // namespace
}  // namespace mtp::parallel
