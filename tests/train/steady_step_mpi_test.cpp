// What a step takes from the system once it has run: no memory.

#include <gtest/gtest.h>

#include <filesystem>

#include "mtp/tensor/cuda_devices.h"
#include "mtp/train/trainer.h"
#include "support/source_dir.h"
#include "support/temp_dir.h"
#include "support/write_data.h"

namespace mtp::train {
namespace {

namespace fs = std::filesystem;

using SteadySteps = testing::TestWithParam<std::tuple<Device::Kind, std::string>>;

std::string name_of(const testing::TestParamInfo<SteadySteps::ParamType>& info) {
  return (std::get<0>(info.param) == Device::Kind::cpu ? "cpu_" : "cuda_") + std::get<1>(info.param);
}

/// Samples of one length, of which every token is a target.
void write_equal_samples(const fs::path& path) {
  test::DataParts parts;
  parts.vocab_size = 96;
  for (std::int32_t sample = 0; sample < 8; ++sample) {
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 21; ++i) tokens.push_back(3 + (sample * 37 + i * 11) % 90);
    parts.add(tokens);
  }
  test::write_data(path, parts);
}

/// How often memory was taken from the system in a run of so many steps, and the bytes held then.
std::pair<std::int64_t, std::int64_t> taken_in(int steps, Device::Kind kind, const std::string& dtype) {
  const fs::path fixture = mtp::test::source_dir() / "tests" / "fixtures" / "e4b";
  const test::TempDir dir;
  const fs::path& work = dir.path();
  write_equal_samples(work / "data.h5");
  std::vector<std::string> arguments = {"mtp-train", "--config", (fixture / "settings.cfg").string()};
  const auto set = [&](const char* name, const std::string& value) {
    arguments.insert(arguments.end(), {name, value});
  };
  set("--model.base", fixture / "base");
  set("--model.drafter", fixture / "drafter");
  set("--data.train", work / "data.h5");
  set("--run.dir", work / "run");
  set("--train.max_steps", std::to_string(steps));
  set("--train.compute_dtype", dtype);
  set("--optimizer.moments", dtype);
  set("--optimizer.moments_on", "host");
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const parallel::Communicator communicator;
  Device device = kind == Device::Kind::cpu ? Device(1) : Device::cuda(0);
  const Settings settings = parse_settings(static_cast<int>(argv.size()), argv.data()).settings;
  Trainer(Inputs::open(settings, device, communicator), device, communicator).run();
  EXPECT_GE(device.memory_peak(), device.memory_in_use());
  return {device.fresh_allocations(), device.memory_peak()};
}

TEST_P(SteadySteps, TakeNoMemoryFromTheSystem) {
  const auto& [kind, dtype] = GetParam();
  if (kind == Device::Kind::cuda && find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
  const auto after_two = taken_in(2, kind, dtype);
  EXPECT_GT(after_two.first, 0);
  EXPECT_EQ(taken_in(4, kind, dtype), after_two);
}

INSTANTIATE_TEST_SUITE_P(SteadySteps, SteadySteps,
                         testing::Combine(testing::Values(Device::Kind::cpu, Device::Kind::cuda),
                                          testing::Values("fp32", "bf16")),
                         name_of);

}  // namespace
}  // namespace mtp::train
