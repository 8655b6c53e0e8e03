// Decoding on a GPU, where steps are replayed from CUDA graphs, beside the CPU.

#include <gtest/gtest.h>

#include "decode/support.h"
#include "mtp/tensor/cuda_devices.h"

namespace mtp::decode {
namespace {

using test::LoadedPair;
using Ids = std::vector<std::int64_t>;

constexpr int seed = 3;

LoadedPair::Place gpu(int number, DType dtype = DType::f32) {
  return {.kind = Device::Kind::cuda, .number = number % find_cuda_devices().count, .dtype = dtype};
}

class Gpu : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
  }
  static hf::Preset preset() { return test::with_small_vocabulary(GetParam()); }
  static Ids prompt(std::int64_t length) { return test::random_tokens(length, static_cast<unsigned>(length)); }
};

INSTANTIATE_TEST_SUITE_P(Presets, Gpu, testing::Values("tiny", "31b-mini"),
                         [](const auto& preset) { return preset.param.substr(0, preset.param.find('-')); });

// The windows of `tiny` are 8 positions: the rings of its sliding layers wrap around again and again. Its second and
// third text run on graphs that the first has left, the fourth on new ones.
TEST_P(Gpu, TheTokensAreThoseOfTheCpuWithAndWithoutDrafter) {
  LoadedPair on_cpu(preset(), seed), on_gpu(preset(), seed, gpu(1));
  const bool is_small = GetParam() == "tiny";
  const Options options{.drafts = 3, .max_new_tokens = is_small ? 24 : 12};
  const Decoder cpu_decoder = on_cpu.decoder(options), gpu_decoder = on_gpu.decoder(options);
  std::int64_t accepted = 0, rejected = 0;
  for (const std::int64_t length : is_small ? Ids{3, 40, 1, 240} : Ids{12}) {
    const Completion want = cpu_decoder.complete(prompt(length), true);
    const Completion plain = gpu_decoder.complete(prompt(length), false);
    const Completion drafted = gpu_decoder.complete(prompt(length), true);
    EXPECT_EQ(plain.output_ids, want.output_ids) << length;
    EXPECT_EQ(drafted.output_ids, want.output_ids) << length;
    EXPECT_EQ(drafted.accepted_at, want.accepted_at) << length;
    EXPECT_EQ(drafted.target_forwards, want.target_forwards) << length;
    accepted += drafted.accepted();
    rejected += drafted.drafted - drafted.accepted();
  }
  EXPECT_GT(accepted, is_small ? 5 : 0);
  EXPECT_GT(rejected, is_small ? 5 : 0);
}

TEST_P(Gpu, InBf16TheTokensWithTheDrafterAreThoseWithout) {
  LoadedPair pair(preset(), seed, gpu(2, DType::bf16));
  const Decoder decoder = pair.decoder({.drafts = 4, .max_new_tokens = 8});
  const Completion plain = decoder.complete(prompt(6), false), drafted = decoder.complete(prompt(6), true);
  EXPECT_EQ(drafted.output_ids, plain.output_ids);
  EXPECT_EQ(drafted.target_forwards + drafted.accepted(), 8);
}

// The logits of both differ in their last bits, by which no draw here falls on another token.
TEST_P(Gpu, SampledTokensAreThoseOfTheCpu) {
  LoadedPair on_cpu(preset(), seed), on_gpu(preset(), seed, gpu(1));
  const Options options{.drafts = 3, .max_new_tokens = 8, .sampling = {.temperature = 1.5, .top_p = 0.95, .seed = 1}};
  for (const bool with_drafter : {false, true}) {
    const Completion want = on_cpu.decoder(options).complete(prompt(6), with_drafter);
    const Completion got = on_gpu.decoder(options).complete(prompt(6), with_drafter);
    EXPECT_EQ(got.output_ids, want.output_ids);
    EXPECT_EQ(got.accepted_at, want.accepted_at);
  }
}

TEST_P(Gpu, AnEndTokenEndsTheTextAsOnTheCpu) {
  LoadedPair on_cpu(preset(), seed), on_gpu(preset(), seed, gpu(0));
  const Ids endless = on_cpu.decoder({.drafts = 3, .max_new_tokens = 16}).complete(prompt(6), false).output_ids;
  const Options options{.drafts = 3, .max_new_tokens = 16, .end_tokens = {endless[9]}};
  const Decoder cpu_decoder = on_cpu.decoder(options), gpu_decoder = on_gpu.decoder(options);
  for (const bool with_drafter : {false, true}) {
    const Completion want = cpu_decoder.complete(prompt(6), with_drafter);
    const Completion got = gpu_decoder.complete(prompt(6), with_drafter);
    EXPECT_EQ(got.output_ids, want.output_ids);
    EXPECT_EQ(got.drafted, want.drafted);
  }
}

}  // namespace
}  // namespace mtp::decode
