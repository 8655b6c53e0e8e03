#include "mtp/checkpoint/directory.h"

#include <gmock/gmock.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "mtp/checkpoint/run_directory.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::checkpoint {
namespace {

namespace fs = std::filesystem;

using testing::ElementsAre;
using testing::HasSubstr;

class CheckpointDirectoryTest : public testing::Test {
 protected:
  void save(std::int64_t step, std::int64_t keep, const std::vector<std::int64_t>& best_first = {}) {
    make_partial(run, step, 0);
    std::ofstream(partial_directory(run, step) / "state.h5") << step;
    complete(run, step, {keep, best_first});
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> found;
    for (const Complete& checkpoint : complete_checkpoints(run)) found.push_back(checkpoint.step);
    return found;
  }
  std::string latest() const { return fs::read_symlink(run / "checkpoints" / "latest"); }

  test::TempDir dir;
  const fs::path run = dir.path();
};

TEST_F(CheckpointDirectoryTest, OnlyWhatHasItsFinalNameIsComplete) {
  make_partial(run, 3, 0);
  EXPECT_THAT(steps(), ElementsAre());
  save(3, 2);
  EXPECT_THAT(steps(), ElementsAre(3));
  EXPECT_EQ(latest(), "step_00000003");
}

TEST_F(CheckpointDirectoryTest, TheNewestAreKept) {
  for (const std::int64_t step : {2, 4, 6}) save(step, 2);
  EXPECT_THAT(steps(), ElementsAre(4, 6));
  EXPECT_EQ(latest(), "step_00000006");
}

TEST_F(CheckpointDirectoryTest, TheBestThatIsThereIsKeptBesideTheNewest) {
  save(2, 1, {2});
  save(4, 1, {2, 4});
  EXPECT_THAT(steps(), ElementsAre(2, 4));
  save(6, 1, {5, 4, 2, 6});  // nothing was saved of step 5
  EXPECT_THAT(steps(), ElementsAre(4, 6));
  save(8, 1, {8, 4});
  EXPECT_THAT(steps(), ElementsAre(8));
}

TEST_F(CheckpointDirectoryTest, ARunThatGoesBackSetsAsideWhatIsNewerUntilItSavesAgain) {
  for (const std::int64_t step : {2, 4, 6}) save(step, 9);
  make_partial(run, 8, 0);
  clean(run, 2);
  EXPECT_THAT(steps(), ElementsAre(2));
  EXPECT_EQ(latest(), "step_00000002");
  EXPECT_FALSE(fs::exists(partial_directory(run, 8)));
  EXPECT_TRUE(fs::exists(run / "checkpoints" / ".step_00000006.replaced"));
  save(3, 1);
  EXPECT_THAT(steps(), ElementsAre(3));
  EXPECT_FALSE(fs::exists(run / "checkpoints" / ".step_00000006.replaced"));
}

TEST_F(CheckpointDirectoryTest, ASaveReplacesOneOfTheSameStep) {
  save(5, 2);
  fs::remove(run / "checkpoints" / "step_00000005" / "state.h5");
  save(5, 2);
  EXPECT_TRUE(fs::exists(run / "checkpoints" / "step_00000005" / "state.h5"));
}

TEST_F(CheckpointDirectoryTest, ADiskWithoutRoomIsRefused) {
  EXPECT_THAT(test::error_of([&] { make_partial(run, 1, std::int64_t{1} << 60); }), HasSubstr("MiB are needed"));
}

TEST_F(CheckpointDirectoryTest, RanksThatOutliveTheirJobAreWaitedFor) {
  using Clock = std::chrono::steady_clock;
  { const RunDirectory creates_it(run); }
  auto survivor = std::make_unique<RunDirectory>(RunDirectory::of_other_rank(run));
  std::jthread dies([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    survivor.reset();
  });
  const auto begin = Clock::now();
  const RunDirectory next(run);
  EXPECT_GT(Clock::now() - begin, std::chrono::milliseconds(400));
}

}  // namespace
}  // namespace mtp::checkpoint
