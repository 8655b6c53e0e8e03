#include <gtest/gtest.h>

#include "cases.h"
#include "support/timing.h"

namespace mtp::bench::test {
namespace {

/// The widths of the smallest preset, and few rows.
Sizes few_rows(DType type) {
  Sizes sizes = all_sizes(Device::Kind::cpu, type).front();
  sizes.rows = 24;
  sizes.length = 40;
  sizes.vocabulary = 320;
  return sizes;
}

class GpuTest : public testing::TestWithParam<DType> {
 protected:
  Device device_ = Device::cuda(0);
};

TEST_P(GpuTest, OperationsMeetTheBoundsOfTheirChecks) {
  for (const auto& cases : {norm_cases(), elementwise_cases(), rope_cases(), embedding_cases(), matmul_cases(),
                            attention_cases(), cross_entropy_cases()})
    for (const Case& each : cases) {
      const Sizes sizes = few_rows(GetParam());
      if (!each.exists(sizes)) continue;
      SCOPED_TRACE(each.operation + " " + each.variant);
      const Work work = each.make(device_, sizes);
      EXPECT_GT(seconds_of(device_, work.run, 1), 0);
      EXPECT_NO_THROW(work.check());
    }
}

TEST_P(GpuTest, FloorsMoveAndMultiplyWhatTheySay) {
  constexpr std::int64_t range = 1 << 16, size = 64;
  for (const auto make : {copy_work, update_work}) {
    const MemoryWork work = make(device_, range);
    EXPECT_EQ(work.bytes, make == update_work ? 2 * range : range);
    EXPECT_GT(seconds_of(device_, work.run, 2), 0);
  }
  const MatrixProduct product = matrix_products(device_, size, GetParam());
  product.run();
  EXPECT_NO_THROW(product.check());
  EXPECT_EQ(product.flops, 2.0 * size * size * size);
}

INSTANTIATE_TEST_SUITE_P(Types, GpuTest, testing::Values(DType::f32, DType::bf16),
                         [](const auto& types) { return to_string(types.param); });

}  // namespace
}  // namespace mtp::bench::test
