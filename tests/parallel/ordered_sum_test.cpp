#include "mtp/parallel/ordered_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace mtp::parallel {
namespace {

// 20 leaves of very different size, so that every other order of addition gives other bits.
std::vector<float> leaves() {
  std::vector<float> values;
  for (int i = 0; i < 20; ++i) values.push_back(std::pow(-3.7f, static_cast<float>(i % 11)) / 7.0f);
  return values;
}

float in_groups_of_eight(const std::vector<float>& v) {
  const float g0 = ((((((v[0] + v[1]) + v[2]) + v[3]) + v[4]) + v[5]) + v[6]) + v[7];
  const float g1 = ((((((v[8] + v[9]) + v[10]) + v[11]) + v[12]) + v[13]) + v[14]) + v[15];
  const float g2 = ((v[16] + v[17]) + v[18]) + v[19];
  return (g0 + g1) + g2;
}

TEST(OrderedSum, AddsLeftToRightInGroupsOfEight) {
  Device device(1);
  OrderedSum sum;
  const std::vector<float> values = leaves();
  for (std::size_t i = 0; i < values.size(); ++i)
    sum.add(device, device.from_host({&values[i], 1}, {1}), static_cast<std::int64_t>(i), 20);
  EXPECT_EQ(sum.total().f32()[0], in_groups_of_eight(values));
}

TEST(OrderedSum, StartsOverWithTheNextStep) {
  Device device(1);
  OrderedSum sum;
  for (const float value : {5.0f, 3.0f})
    for (int i = 0; i < 9; ++i) sum.add(device, device.from_host({&value, 1}, {1}), i, 9);
  EXPECT_EQ(sum.total().f32()[0], 27.0f);
}

TEST(OrderedSum, OfNumbersHasTheSameOrder) {
  const std::vector<float> values = leaves();
  std::vector<double> v(values.begin(), values.end());
  double g[3] = {v[0], v[8], v[16]};
  for (int i = 1; i < 8; ++i) g[0] += v[i], g[1] += v[8 + i];
  for (int i = 17; i < 20; ++i) g[2] += v[i];
  EXPECT_EQ(ordered_sum(v), (g[0] + g[1]) + g[2]);
  EXPECT_EQ(ordered_sum({}), 0.0);
}

}  // namespace
}  // namespace mtp::parallel
