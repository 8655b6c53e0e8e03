#include "mtp/parallel/sharded_unit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "mtp/tensor/bfloat16.h"

namespace mtp::parallel {
namespace {

constexpr std::int64_t micro_batches = 12;

float weight(std::int64_t element) { return std::sin(static_cast<float>(element)); }
float gradient(std::int64_t micro_batch, std::int64_t element) {
  return std::exp(std::sin(static_cast<float>(element * 31 + micro_batch * 7)) * 6.0f);
}

UnitLayout layout() { return UnitLayout("layer", true, {{"a", {17}, 0}, {"b", {100, 70}, 0}, {"c", {5, 9}, 0}}); }

/// The sum of one element over all micro-batches, written down once more.
float expected_sum(std::int64_t element) {
  float first = gradient(0, element), second = gradient(8, element);
  for (std::int64_t m = 1; m < 8; ++m) first += gradient(m, element);
  for (std::int64_t m = 9; m < micro_batches; ++m) second += gradient(m, element);
  return first + second;
}

class ShardedUnitTest : public testing::Test {
 protected:
  Device device{1};
  Communicator communicator;
  Sharding sharding{device, communicator, Reduction::ordered, micro_batches, 0};

  void fill_master(const ShardedUnit& unit) {
    for (const ShardedUnit::Piece& piece : unit.pieces())
      for (std::int64_t i = 0; i < piece.elements; ++i)
        unit.master().f32()[piece.position + i] =
            weight(unit.layout().members()[piece.member].offset + piece.begin + i);
  }

  void reduce_all(ShardedUnit& unit) {
    for (std::int64_t first = 0; first < micro_batches; first += communicator.size()) {
      sharding.first_micro_batch = first;
      const std::int64_t mine = first + communicator.rank();
      for (std::size_t i = 0; i < unit.layout().members().size(); ++i) {
        const Tensor g = unit.gradient(i);
        const std::int64_t offset = unit.layout().members()[i].offset;
        for (std::int64_t e = 0; e < g.elements(); ++e) g.f32()[e] += gradient(mine, offset + e);
      }
      unit.reduce_gradients();
    }
  }
};

TEST_F(ShardedUnitTest, GathersWhatTheRanksOwn) {
  ShardedUnit unit(layout(), sharding);
  fill_master(unit);
  unit.acquire();
  for (std::size_t i = 0; i < unit.layout().members().size(); ++i) {
    const UnitLayout::Member& member = unit.layout().members()[i];
    const Tensor value = unit.value(i);
    ASSERT_EQ(value.shape(), member.shape);
    for (std::int64_t e = 0; e < value.elements(); ++e)
      ASSERT_EQ(value.f32()[e], weight(member.offset + e)) << member.name;
  }
  unit.release();
}

TEST_F(ShardedUnitTest, GathersInTheTypeThatIsComputedWith) {
  sharding.compute_dtype = DType::bf16;
  ShardedUnit unit(layout(), sharding);
  fill_master(unit);
  const std::int64_t before = device.memory_in_use();
  unit.acquire();
  // The shard in this type is kept, and on several ranks there is the whole unit.
  const std::int64_t shard = unit.master().elements(),
                     gathered = communicator.size() > 1 ? communicator.size() * shard : 0;
  EXPECT_LE(device.memory_in_use() - before, (shard + gathered) * 2 + 512);  // what rounding adds to two blocks
  for (std::size_t i = 0; i < unit.layout().members().size(); ++i) {
    const UnitLayout::Member& member = unit.layout().members()[i];
    std::vector<float> values(member.elements());
    device.to_host(unit.value(i), values);
    for (std::int64_t e = 0; e < member.elements(); ++e)
      ASSERT_EQ(values[e], rounded_to(DType::bf16, weight(member.offset + e))) << member.name;
  }
  EXPECT_EQ(unit.gradient(0).dtype(), DType::f32);
  unit.release();
}

TEST_F(ShardedUnitTest, SumsGradientsInTheSameOrderOnAnyNumberOfRanks) {
  ShardedUnit unit(layout(), sharding);
  for (int step = 0; step < 2; ++step) {
    reduce_all(unit);
    for (const ShardedUnit::Piece& piece : unit.pieces())
      for (std::int64_t i = 0; i < piece.elements; ++i) {
        const std::int64_t element = unit.layout().members()[piece.member].offset + piece.begin + i;
        ASSERT_EQ(unit.gradient_sum().f32()[piece.position + i], expected_sum(element)) << "element " << element;
      }
  }
}

TEST_F(ShardedUnitTest, FastReductionSumsTheSameUpToRounding) {
  sharding.reduction = Reduction::fast;
  ShardedUnit unit(layout(), sharding);
  reduce_all(unit);
  for (const ShardedUnit::Piece& piece : unit.pieces())
    for (std::int64_t i = 0; i < piece.elements; ++i) {
      const float expected = expected_sum(unit.layout().members()[piece.member].offset + piece.begin + i);
      ASSERT_NEAR(unit.gradient_sum().f32()[piece.position + i], expected, 1e-5f * expected);
    }
}

TEST_F(ShardedUnitTest, AUnitWithoutGradientsInAMicroBatchAddsZeros) {
  ShardedUnit unit(layout(), sharding);
  for (std::int64_t first = 0; first < micro_batches; first += communicator.size()) {
    sharding.first_micro_batch = first;
    unit.reduce_gradients();
  }
  for (std::int64_t i = 0; i < unit.gradient_sum().elements(); ++i) ASSERT_EQ(unit.gradient_sum().f32()[i], 0.0f);
}

TEST_F(ShardedUnitTest, PiecesOfAllRanksCoverEveryElementOnce) {
  const ShardedUnit unit(layout(), sharding);
  std::int64_t held = 0;
  for (const ShardedUnit::Piece& piece : unit.pieces()) held += piece.elements;
  EXPECT_EQ(communicator.sum(held, "elements held"), 17 + 100 * 70 + 5 * 9);
}

TEST_F(ShardedUnitTest, ExpertsAreDividedAmongRanksThatHaveTheGradientsOfAll) {
  const int parts = communicator.size() % 2 == 0 ? 2 : 1;
  constexpr std::int64_t experts = 4, of_each = 9 * 16, all = experts * (9 * 16 + 16 * 3);
  const ExpertRanks expert_ranks(device, communicator, parts);
  sharding.experts = &expert_ranks;
  ShardedUnit unit(
      UnitLayout("experts", true, {{"a", {experts, 9, 16}, 0}, {"b", {experts, 16, 3}, 0}}, DType::f32, parts),
      sharding);
  EXPECT_EQ(unit.layout().block(), 48);
  std::int64_t held = 0;
  for (const ShardedUnit::Run& run : unit.runs(communicator.rank()))
    held += std::max<std::int64_t>(0, std::min(run.first + run.elements, all) - run.first);
  EXPECT_EQ(communicator.sum(held, "elements held"), all);

  const int first_of_group = communicator.rank() / parts * parts, part = communicator.rank() % parts;
  for (std::int64_t first = 0; first < micro_batches; first += communicator.size()) {
    sharding.first_micro_batch = first;
    for (int source = 0; source < parts; ++source) {
      const Tensor g = unit.gradient(0, static_cast<std::size_t>(source));
      ASSERT_EQ(g.elements(), experts / parts * of_each);
      for (std::int64_t e = 0; e < g.elements(); ++e)
        g.f32()[e] += gradient(first + first_of_group + source, part * g.elements() + e);
    }
    unit.reduce_gradients();
  }
  const Tensor whole = unit.member(unit.gather(unit.gradient_sum()), 0);
  ASSERT_EQ(whole.elements(), experts * of_each);
  for (std::int64_t e = 0; e < whole.elements(); ++e) ASSERT_EQ(whole.f32()[e], expected_sum(e)) << e;
}

TEST_F(ShardedUnitTest, PairsGoToTheRanksOfTheirExpertsAndBack) {
  const int ranks = communicator.size(), rank = communicator.rank();
  const ExpertRanks group(device, communicator, ranks);
  const auto load = [](int of_rank, int expert) { return std::int64_t{(of_rank + 2 * expert) % 3}; };
  std::vector<std::int64_t> offsets{0};  // of two experts a rank
  for (int e = 0; e < 2 * ranks; ++e) offsets.push_back(offsets.back() + load(rank, e));
  const Tensor rows = device.empty({offsets.back(), 1});
  for (std::int64_t i = 0; i < offsets.back(); ++i) rows.f32()[i] = static_cast<float>(100 * rank + i);
  const ExpertExchange::Routes routes = group.route(device.from_host(offsets), rank == 0);
  EXPECT_TRUE(routes.needs_gradient);
  const Tensor here = group.send(rows, routes);
  std::int64_t next = 0;
  for (int r = 0; r < ranks; ++r) {
    const std::int64_t first = load(r, 2 * rank), both = first + load(r, 2 * rank + 1);
    EXPECT_EQ(device.ids_to_host(routes.pairs[r].offsets), (std::vector<std::int64_t>{0, first, both}));
    std::int64_t before = 0;
    for (int e = 0; e < 2 * rank; ++e) before += load(r, e);
    for (std::int64_t i = 0; i < both; ++i)
      EXPECT_EQ(here.f32()[next++], static_cast<float>(100 * r + before + i)) << "of rank " << r;
  }
  EXPECT_EQ(here.size(0), next);
  const Tensor back = group.send_back(here, routes);
  ASSERT_EQ(back.shape(), rows.shape());
  for (std::int64_t i = 0; i < offsets.back(); ++i) EXPECT_EQ(back.f32()[i], rows.f32()[i]);
}

TEST(UnitLayout, BlocksOfATableAreWholeRows) {
  const UnitLayout table("table", true, {{"t", {1000, 96}, 0}});
  EXPECT_EQ(table.block() % 96, 0);
  EXPECT_GE(table.block(), 4096);
  EXPECT_EQ(table.shard_elements(3) % table.block(), 0);
  EXPECT_GE(table.shard_elements(3) * 3, 1000 * 96);
}

TEST(Agree, AFaultThatAllRanksSeeIsAnAgreedError) {
  const Communicator communicator;
  agree(communicator, "a test", [] {});
  try {
    agree(communicator, "a test", [] { throw UsageError("setting x: bad"); });
    FAIL() << "no error";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "setting x: bad");
    EXPECT_EQ(error.exit_code(), 2);
  }
}

}  // namespace
}  // namespace mtp::parallel
