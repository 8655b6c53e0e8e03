#include "mtp/data/sampler.h"

#include <gmock/gmock.h>

#include "mtp/core/random.h"

namespace mtp::data {
namespace {

using testing::ElementsAre;
using testing::UnorderedElementsAre;

std::vector<std::int64_t> samples_of_step(Sampler& sampler, std::int64_t step) {
  std::vector<std::int64_t> samples;
  for (std::int64_t i = 0; i < sampler.global_batch(); ++i) samples.push_back(sampler.sample(step, i));
  return samples;
}

TEST(Sampler, WithoutShufflingStepsRunThroughTheFileAndStraddleItsEnd) {
  Sampler sampler({.samples = 5, .global_batch = 3});
  EXPECT_THAT(samples_of_step(sampler, 0), ElementsAre(0, 1, 2));
  EXPECT_THAT(samples_of_step(sampler, 1), ElementsAre(3, 4, 0));
  EXPECT_THAT(samples_of_step(sampler, 2), ElementsAre(1, 2, 3));
}

TEST(Sampler, ABatchLargerThanTheFileTakesSamplesAgain) {
  Sampler sampler({.samples = 2, .global_batch = 5});
  EXPECT_THAT(samples_of_step(sampler, 0), ElementsAre(0, 1, 0, 1, 0));
  EXPECT_THAT(samples_of_step(sampler, 1), ElementsAre(1, 0, 1, 0, 1));
}

TEST(Sampler, ShufflingDrawsEachEpochFromSeedAndEpoch) {
  Sampler sampler({.samples = 8, .global_batch = 8, .shuffle = true, .seed = 42});
  EXPECT_THAT(samples_of_step(sampler, 0), ElementsAre(5, 3, 7, 0, 1, 6, 4, 2));
  EXPECT_EQ(samples_of_step(sampler, 1), permutation(Random(42, Purpose::shuffle, 1), 8));
}

TEST(Sampler, EveryEpochHasEverySampleOnceWhateverTheBatch) {
  Sampler sampler({.samples = 7, .global_batch = 3, .shuffle = true, .seed = 1});
  std::vector<std::int64_t> stream;
  for (std::int64_t step = 0; step < 14; ++step) {
    const auto samples = samples_of_step(sampler, step);
    stream.insert(stream.end(), samples.begin(), samples.end());
  }
  for (auto epoch = stream.begin(); epoch != stream.end(); epoch += 7)
    EXPECT_THAT(std::vector(epoch, epoch + 7), UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST(Sampler, ASampleDoesNotDependOnWhatWasAskedBefore) {
  const Sampler::Options options{.samples = 7, .global_batch = 3, .shuffle = true, .seed = 1};
  Sampler onward(options);
  std::vector<std::vector<std::int64_t>> steps;
  for (std::int64_t step = 0; step < 10; ++step) steps.push_back(samples_of_step(onward, step));
  Sampler backward(options);
  for (std::int64_t step = 9; step >= 0; --step) EXPECT_EQ(samples_of_step(backward, step), steps[step]);
}

TEST(Sampler, EpochIsThatOfTheStepsFirstSample) {
  const Sampler sampler({.samples = 5, .global_batch = 3});
  EXPECT_EQ(sampler.epoch(0), 0);
  EXPECT_EQ(sampler.epoch(1), 0);
  EXPECT_EQ(sampler.epoch(2), 1);
  EXPECT_EQ(sampler.epoch(5), 3);
}

TEST(Sampler, ARunEndsAtTheFirstLimit) {
  const Sampler sampler({.samples = 5, .global_batch = 3});
  EXPECT_EQ(sampler.total_steps(100, 0), 100);
  EXPECT_EQ(sampler.total_steps(0, 1), 2);
  EXPECT_EQ(sampler.total_steps(0, 3), 5);
  EXPECT_EQ(sampler.total_steps(4, 3), 4);
  EXPECT_EQ(sampler.total_steps(6, 3), 5);
  EXPECT_EQ(sampler.total_steps(6, 9000000000000000000), 6);
}

}  // namespace
}  // namespace mtp::data
