// What a device holds of the system's memory for the tensors that come and go.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <random>
#include <vector>

#include "mtp/tensor/cuda_devices.h"
#include "mtp/tensor/device.h"

namespace mtp {
namespace {

constexpr std::int64_t mib = std::int64_t{1} << 20;

class MemoryTest : public testing::TestWithParam<Device::Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::Kind::cuda && find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
  }
  static Device make() { return GetParam() == Device::Kind::cpu ? Device(1) : Device::cuda(0); }
  static Tensor of_bytes(Device& device, std::int64_t bytes) { return device.empty({bytes / 4}); }
};
INSTANTIATE_TEST_SUITE_P(Devices, MemoryTest, testing::Values(Device::Kind::cpu, Device::Kind::cuda),
                         [](const auto& kind) { return kind.param == Device::Kind::cpu ? "cpu" : "cuda"; });

TEST_P(MemoryTest, WhatIsGivenBackIsUsedForOtherSizes) {
  Device device = make();
  Tensor first = of_bytes(device, mib), second = of_bytes(device, mib);
  const Tensor last = of_bytes(device, mib);
  EXPECT_EQ(device.memory_peak(), 3 * mib);
  second = {};
  const Tensor half = of_bytes(device, mib / 2), other_half = of_bytes(device, mib / 2);
  EXPECT_EQ(device.memory_peak(), 3 * mib);
  EXPECT_EQ(device.memory_in_use(), 3 * mib);
}

TEST_P(MemoryTest, AccountsSayWhatMemoryWasForWhenMostWasHeld) {
  Device device = make();
  const Tensor weights = device.empty({mib / 4}, DType::f32, MemoryUse::weights);
  Tensor activations = of_bytes(device, mib);
  {
    const Device::Within outer(device, MemoryUse::logits);
    const Device::Within inner(device, MemoryUse::operations);
    const Tensor logits = device.empty({mib / 2}, DType::f32, MemoryUse::gathered);
  }
  activations = {};
  const Tensor later = device.empty({mib / 8}, DType::f32, MemoryUse::communication);
  MemoryAccounts expected{.held = 4 * mib};
  expected.of(MemoryUse::weights) = expected.of(MemoryUse::activations) = mib;
  expected.of(MemoryUse::logits) = 2 * mib;
  EXPECT_EQ(device.accounts(), expected);
  const Tensor larger = device.empty({mib}, DType::f32, MemoryUse::gathered);
  expected = {.held = 11 * mib / 2};
  expected.of(MemoryUse::weights) = mib;
  expected.of(MemoryUse::communication) = mib / 2;
  expected.of(MemoryUse::gathered) = 4 * mib;
  EXPECT_EQ(device.accounts(), expected);
  EXPECT_EQ(device.accounts().gaps(), 0);
}

TEST_P(MemoryTest, GapsSideBySideBecomeOne) {
  Device device = make();
  std::vector<Tensor> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back(of_bytes(device, mib));
  for (const int i : {1, 3, 2}) tensors[i] = {};
  const Tensor three = of_bytes(device, 3 * mib);
  EXPECT_EQ(device.memory_peak(), 5 * mib);
}

TEST_P(MemoryTest, ATensorGoesIntoTheSmallestGapThatIsLargeEnough) {
  Device device = make();
  std::vector<Tensor> tensors;
  for (const std::int64_t size : {4, 1, 2, 1}) tensors.push_back(of_bytes(device, size * mib));
  const std::byte* two = tensors[2].data<std::byte>();
  tensors[0] = tensors[2] = {};
  EXPECT_EQ(of_bytes(device, 3 * mib / 2).data<std::byte>(), two);
}

TEST_P(MemoryTest, TheSameCallsGiveTheSameAddresses) {
  Device device = make();
  const auto pass = [&] {
    std::vector<const std::byte*> addresses;
    std::vector<Tensor> kept;
    std::mt19937 random(7);
    for (int i = 0; i < 200; ++i) {
      if (!kept.empty() && random() % 2 == 0) kept.erase(kept.begin() + random() % kept.size());
      kept.push_back(of_bytes(device, 1024 + random() % mib));
      addresses.push_back(kept.back().data<std::byte>());
    }
    return addresses;
  };
  const auto first = pass();
  const std::int64_t held = device.memory_peak(), fresh = device.fresh_allocations();
  EXPECT_EQ(pass(), first);
  EXPECT_EQ(device.memory_peak(), held);
  EXPECT_EQ(device.fresh_allocations(), fresh);
}

// A step's tensors of a length that no step before had.
TEST_P(MemoryTest, SizesThatVaryHoldLittleMoreThanIsInUse) {
  Device device = make();
  std::mt19937 random(1);
  std::int64_t most = 0;
  for (int step = 0; step < 100; ++step) {
    const std::int64_t length = 16 + random() % 240;
    std::vector<Tensor> activations;
    for (int layer = 0; layer < 8; ++layer) {
      activations.push_back(of_bytes(device, length * 1024));
      activations.push_back(of_bytes(device, length * 4));
      const Tensor inner = of_bytes(device, length * 4096);
      most = std::max(most, device.memory_in_use());
    }
  }
  EXPECT_LT(static_cast<double>(device.memory_peak()), 1.1 * static_cast<double>(most));
}

TEST_P(MemoryTest, WhatCannotBeHadIsAnErrorThatLeavesTheRest) {
  Device device = make();
  const Tensor one = device.zeros({1});
  EXPECT_THROW(of_bytes(device, std::int64_t{1} << 50), Error);
  EXPECT_EQ(device.memory_in_use(), 256);
  device.set_zero(of_bytes(device, mib));
}

TEST(CountingDeviceTest, CountsMemoryWithoutTouchingIt) {
  Device device = Device::counting(Device::Kind::cpu);
  const auto faults = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt + usage.ru_majflt;
  };
  const Tensor weights = device.empty({1024 * mib / 4}, DType::f32, MemoryUse::weights),
               copy = device.empty({1024 * mib / 4});
  const auto before = faults();
  device.set_zero(weights);
  device.copy(weights, copy);
  EXPECT_LT(faults() - before, 64);
  EXPECT_EQ(device.accounts().held, 2048 * mib);
  EXPECT_EQ(device.accounts().of(MemoryUse::weights), 1024 * mib);
}

TEST(CountingDeviceTest, KnowsIntegersThatTheHostHasWritten) {
  Device device = Device::counting(Device::Kind::cpu);
  device.from_host(std::vector<float>(64, 1.5f), {64});  // whose memory is the next tensor's
  const Tensor ids = device.empty({4}, DType::i64);
  EXPECT_THAT(device.ids_to_host(ids), testing::Each(0));
  device.write(std::vector<std::int64_t>{7, 5, 3, 1}, ids);
  EXPECT_THAT(device.ids_to_host(ids), testing::ElementsAre(7, 5, 3, 1));
}

TEST(CountingDeviceTest, RunsNoTask) {
  const Device device = Device::counting(Device::Kind::cpu);
  int calls = 0;
  device.threads().run(8, [&](std::int64_t) { ++calls; });
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace mtp
