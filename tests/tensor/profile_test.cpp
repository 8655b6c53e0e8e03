#include "mtp/tensor/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "mtp/tensor/cuda_devices.h"
#include "mtp/tensor/device.h"

namespace mtp {
namespace {

class ProfileTest : public testing::TestWithParam<Device::Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::Kind::cuda && find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
  }
  static Device make() { return GetParam() == Device::Kind::cpu ? Device(1) : Device::cuda(0); }
};
INSTANTIATE_TEST_SUITE_P(Devices, ProfileTest, testing::Values(Device::Kind::cpu, Device::Kind::cuda),
                         [](const auto& kind) { return kind.param == Device::Kind::cpu ? "cpu" : "cuda"; });

/// Copies so many elements a few times.
void copy(Device& device, std::int64_t elements) {
  const Tensor from = device.zeros({elements}), to = device.empty({elements});
  for (int i = 0; i < 4; ++i) device.copy(from, to);
}

using Named = std::vector<std::pair<std::string, std::string>>;
Named names(const std::vector<Profile::Entry>& entries) {
  Named names;
  for (const Profile::Entry& entry : entries) names.emplace_back(entry.part, entry.operation);
  return names;
}

TEST_P(ProfileTest, OperationsAreTimedInTheirPartsAndTheLongestComesFirst) {
  Device device = make();
  Profile& profile = device.profile();
  const auto run = [&](const char* name, std::int64_t elements) {
    profile.measure(name, [&] { copy(device, elements); });
  };
  run("unseen", 1);
  profile.start();
  run("short", 1);
  profile.begin_part("outer");
  run("short", 1);
  profile.begin_part("inner");
  run("long", 1 << 22);
  run("long", 1 << 22);
  profile.end_part("outer");  // not in the opposite order
  run("short", 1);
  profile.end_part("inner");
  profile.stop();
  run("unseen", 1);
  const std::vector<Profile::Entry> entries = profile.entries();
  EXPECT_THAT(names(entries),
              testing::UnorderedElementsAre(testing::Pair("", "short"), testing::Pair("outer", "short"),
                                            testing::Pair("inner", "short"), testing::Pair("inner", "long")));
  EXPECT_EQ(entries[0].operation, "long");
  EXPECT_EQ(entries[0].calls, 2);
  EXPECT_GT(entries[0].seconds, 0);
  EXPECT_LT(entries[0].seconds, 10);
  for (std::size_t i = 1; i < entries.size(); ++i) EXPECT_LE(entries[i].seconds, entries[i - 1].seconds);
}

TEST_P(ProfileTest, AnOperationWithinAnotherCountsToTheOuterOne) {
  Device device = make();
  Profile& profile = device.profile();
  profile.start();
  profile.measure("outer", [&] { profile.measure("inner", [&] { copy(device, 8); }); });
  profile.stop();
  EXPECT_THAT(names(profile.entries()), testing::ElementsAre(testing::Pair("", "outer")));
}

TEST_P(ProfileTest, WhatIsMeasuredInTurnsIsAddedUpAndAFailedOperationIsNotCounted) {
  Device device = make();
  Profile& profile = device.profile();
  for (int turn = 0; turn < 3; ++turn) {
    profile.start();
    profile.measure("copy", [&] { copy(device, 8); });
    EXPECT_THROW(profile.measure("failed", [] { throw std::runtime_error("a fault"); }), std::runtime_error);
    profile.stop();
  }
  ASSERT_THAT(names(profile.entries()), testing::ElementsAre(testing::Pair("", "copy")));
  EXPECT_EQ(profile.entries()[0].calls, 3);
}

}  // namespace
}  // namespace mtp
