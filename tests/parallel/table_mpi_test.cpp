// Tables whose rows are looked up by exchange: the same bits as one rank that holds the whole table.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "mtp/parallel/sharded_unit.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp::parallel {
namespace {

constexpr std::int64_t rows = 700, width = 24, micro_batches = 12, skipped = 3;

float weight(std::int64_t row, std::int64_t column) { return std::sin(static_cast<float>(row * width + column)); }
float dense_gradient(std::int64_t micro_batch, std::int64_t row, std::int64_t column) {
  return std::cos(static_cast<float>(micro_batch * 5 + row * 3 + column)) / 3.0f;
}
float row_gradient(std::int64_t micro_batch, std::int64_t i, std::int64_t column) {
  return std::exp(std::sin(static_cast<float>(micro_batch * 11 + i * 7 + column)) * 5.0f);
}

/// Ids of a micro-batch: some twice, the skipped one among them, from all over the table.
std::vector<std::int64_t> ids_of(std::int64_t micro_batch) {
  std::vector<std::int64_t> ids{skipped, 0, rows - 1, 17, 17};
  for (std::int64_t i = 0; i < 20 + micro_batch; ++i) ids.push_back((i * 131 + micro_batch * 37) % rows);
  return ids;
}

class TableTest : public testing::Test {
 protected:
  TableTest() {
    for (const ShardedUnit::Piece& piece : table.pieces())
      for (std::int64_t i = 0; i < piece.elements; ++i)
        table.master().f32()[piece.position + i] = weight((piece.begin + i) / width, (piece.begin + i) % width);
  }

  Tensor gradients_of(std::int64_t micro_batch, std::int64_t count) {
    std::vector<float> gradients;
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t c = 0; c < width; ++c) gradients.push_back(row_gradient(micro_batch, i, c));
    return device.from_host(gradients, {count, width}, sharding.compute_dtype);
  }

  void reduce_all(bool dense) {
    for (std::int64_t first = 0; first < micro_batches; first += communicator.size()) {
      sharding.first_micro_batch = first;
      const std::int64_t mine = first + communicator.rank();
      if (dense) {
        const Tensor g = table.gradient(0);
        for (std::int64_t e = 0; e < rows * width; ++e) g.f32()[e] += dense_gradient(mine, e / width, e % width);
      }
      const std::vector<std::int64_t> ids = ids_of(mine);
      table.add_row_gradients(Tokens::known(device, ids, skipped),
                              gradients_of(mine, static_cast<std::int64_t>(ids.size())), 0.3f);
      table.reduce_gradients();
    }
  }

  /// A micro-batch's gradient of one element, written down once more: the dense part, then the rows in their order.
  float leaf(std::int64_t micro_batch, std::int64_t row, std::int64_t column, bool dense) {
    float sum = dense ? dense_gradient(micro_batch, row, column) : 0.0f;
    const std::vector<std::int64_t> ids = ids_of(micro_batch);
    for (std::size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == row && row != skipped) {
        const float gradient = row_gradient(micro_batch, static_cast<std::int64_t>(i), column);
        const float part = rounded_to(sharding.compute_dtype, gradient) * 0.3f;
        sum += part;
      }
    return sum;
  }

  void expect_sums(bool dense) {
    for (const ShardedUnit::Piece& piece : table.pieces())
      for (std::int64_t i = 0; i < piece.elements; ++i) {
        const std::int64_t row = (piece.begin + i) / width, column = (piece.begin + i) % width;
        float groups[2] = {};
        for (std::int64_t m = 0; m < micro_batches; ++m)
          groups[m / group_size] =
              m % group_size == 0 ? leaf(m, row, column, dense) : groups[m / group_size] + leaf(m, row, column, dense);
        ASSERT_EQ(table.gradient_sum().f32()[piece.position + i], groups[0] + groups[1])
            << "row " << row << " column " << column;
      }
  }

  Device device{1};
  Communicator communicator;
  Sharding sharding{device, communicator, Reduction::ordered, micro_batches, 0};
  ShardedUnit table{UnitLayout("table", true, {{"t", {rows, width}, 0}}), sharding};
};

TEST_F(TableTest, RowsComeFromTheirOwnersWithoutAGather) {
  const std::vector<std::int64_t> ids = ids_of(communicator.rank());  // each rank asks for others
  const Tensor found = table.rows(Tokens::known(device, ids, skipped));
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (std::int64_t c = 0; c < width; ++c)
      ASSERT_EQ(found.f32()[i * width + c], weight(ids[i], c)) << "id " << ids[i];
}

TEST_F(TableTest, RowGradientsAreSummedInTheSameOrderOnAnyNumberOfRanks) {
  for (int step = 0; step < 2; ++step) {
    reduce_all(false);
    expect_sums(false);
  }
}

TEST_F(TableTest, RowGradientsFollowTheTiedProjections) {
  for (int step = 0; step < 2; ++step) {
    reduce_all(true);
    expect_sums(true);
  }
}

TEST_F(TableTest, InBf16RowsAreRoundedAndTheirGradientsAddedInFp32) {
  sharding.compute_dtype = DType::bf16;
  const std::vector<std::int64_t> ids = ids_of(communicator.rank());
  std::vector<float> found((ids.size() + 1) * width);  // the skipped row comes last
  device.to_host(table.rows(Tokens::known(device, ids, skipped)), found);
  for (std::size_t i = 0; i < ids.size(); ++i)
    for (std::int64_t c = 0; c < width; ++c)
      ASSERT_EQ(found[i * width + c], rounded_to(DType::bf16, weight(ids[i], c))) << "id " << ids[i];
  for (const bool dense : {false, true}) {
    reduce_all(dense);
    expect_sums(dense);
  }
}

TEST_F(TableTest, LookupsNeverHoldTheWholeTable) {
  const std::int64_t before = device.memory_in_use();
  table.rows(Tokens::known(device, ids_of(communicator.rank()), skipped));
  const std::int64_t ids = 5 + 20 + micro_batches, row_bytes = width * 4;
  EXPECT_LT(device.memory_peak() - before, (3 * ids * communicator.size() + 100) * row_bytes);
}

}  // namespace
}  // namespace mtp::parallel
