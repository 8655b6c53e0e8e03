// Operations that are run again and again, on the CPU and, in the emulation too, from a CUDA graph.

#include "mtp/tensor/replay.h"

#include <gtest/gtest.h>

#include <vector>

#include "mtp/tensor/cuda_devices.h"
#include "support/error_of.h"

namespace mtp {
namespace {

class ReplayTest : public testing::TestWithParam<Device::Kind> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::Kind::cuda && find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
  }
  static Device make() { return GetParam() == Device::Kind::cpu ? Device(1) : Device::cuda(0); }
};
INSTANTIATE_TEST_SUITE_P(Devices, ReplayTest, testing::Values(Device::Kind::cpu, Device::Kind::cuda),
                         [](const auto& kind) { return kind.param == Device::Kind::cpu ? "cpu" : "cuda"; });

std::int64_t read(const Device& device, const Tensor& tensor) {
  std::int64_t value = 0;
  device.to_host(tensor, {&value, 1});
  return value;
}

TEST_P(ReplayTest, EveryRunReadsWhatWasWrittenBefore) {
  Device device = make();
  const Tensor in = device.empty({1}, DType::i64), out = device.empty({1}, DType::i64);
  Replay replay(device, [&] {
    const Tensor between = device.empty({1}, DType::i64);
    device.copy(in, between);
    device.copy(between, out);
  });
  for (const std::int64_t value : {3, 1, 4, 1, 5}) {
    device.write({&value, 1}, in);
    replay.run();
    EXPECT_EQ(read(device, out), value);
  }
}

TEST_P(ReplayTest, NobodyElseGetsItsMemory) {
  Device device = make();
  const Tensor one = device.empty({8}, DType::i64), out = device.empty({8}, DType::i64);
  const std::vector<std::int64_t> ones(8, 1), twos(8, 2);
  device.write(ones, one);
  Replay replay(device, [&] { device.copy(one, device.empty({8}, DType::i64)); });
  replay.run();
  replay.run();
  std::vector<Tensor> others;
  for (int i = 0; i < 4; ++i) device.write(twos, others.emplace_back(device.empty({8}, DType::i64)));
  replay.run();
  for (const Tensor& other : others) {
    std::vector<std::int64_t> values(8);
    device.to_host(other, values);
    EXPECT_EQ(values, twos);
  }
}

// What a graph cannot hold is an error of the second run, which would be recorded, and leaves the device usable.
TEST_P(ReplayTest, AGraphCannotWaitOrReadTheHost) {
  if (GetParam() == Device::Kind::cpu) return;
  Device device = make();
  const Tensor tensor = device.from_host(std::vector<std::int64_t>{7});
  const std::int64_t value = 8;
  for (const std::function<void()>& forbidden :
       {std::function<void()>([&] { read(device, tensor); }), std::function<void()>([&] {
          device.write({&value, 1}, tensor);
        })}) {
    Replay replay(device, forbidden);
    replay.run();
    EXPECT_NE(test::error_of([&] { replay.run(); }), "no error");
  }
  EXPECT_EQ(read(device, tensor), 8);
}

}  // namespace
}  // namespace mtp
