#include "mtp/checkpoint/saver.h"

#include <gmock/gmock.h>

#include <fstream>

#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/state.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::Each;
using testing::HasSubstr;
using testing::StartsWith;

/// A run of one unit, of a matrix [30, 7] in which every weight is the number of the step, on one rank.
class SaverTest : public testing::Test {
 protected:
  SaverTest() {
    fs::create_directories(run / "source");
    std::ofstream(run / "source" / "config.json") << "{}";
    source.add_file(run, run / "source" / "config.json");
    settings.run.dir = run;
    settings.model = {.base = "base", .drafter = "drafter"};
    units.push_back(std::make_unique<parallel::ShardedUnit>(
        parallel::UnitLayout("unit", true, {{"base.w", {30, 7}, 0}}), sharding));
  }

  Saver saver() {
    return Saver({settings, {{"data.train", "0123"}}, device.name(), communicator.size()}, source, units, device,
                 communicator);
  }
  void train_to(float step) {
    const Tensor& weights = units[0]->master();
    std::fill_n(weights.f32(), weights.elements(), step);
  }
  void save(Saver& saver, std::int64_t step, bool run_ends = false) {
    train_to(static_cast<float>(step));
    saver.save({.step = step, .epoch = 2, .position = 5, .next_lr = 0.25, .run_ends = run_ends});
  }
  fs::path checkpoint(std::int64_t step) const { return run / "checkpoints" / fmt::format("step_{:08}", step); }
  static std::vector<float> weights(const State& state) {
    std::vector<float> values(30 * 7);
    state.read("parameters/base.w", 0, values);
    return values;
  }

  test::TempDir dir;
  const fs::path run = dir.path();
  Device device{1};
  parallel::Communicator communicator;
  parallel::Sharding sharding{.device = device, .communicator = communicator};
  parallel::Units units;
  Settings settings;
  Manifest source;
};

TEST_F(SaverTest, TrainingMayGoOnWhileItWrites) {
  Saver saver = this->saver();
  save(saver, 1);
  train_to(2);
  saver.finish();
  const State state(checkpoint(1));
  EXPECT_EQ(state.shape("parameters/base.w"), (Shape{30, 7}));
  EXPECT_THAT(weights(state), Each(1));
  state.verify_files();
  state.verify_tensors();
}

TEST_F(SaverTest, StateSaysWhereTheRunIs) {
  Saver saver = this->saver();
  save(saver, 3, true);
  const State state(checkpoint(3));
  EXPECT_EQ(state.step(), 3);
  EXPECT_EQ(state.number("epoch"), 2);
  EXPECT_EQ(state.number("position"), 5);
  EXPECT_EQ(state.number("ranks"), 1);
  EXPECT_THAT(state.text("fingerprints"), HasSubstr("0123"));
  EXPECT_THAT(state.text("settings"), HasSubstr("base"));
}

TEST_F(SaverTest, ASaveThatFailsLeavesTheRunGoing) {
  Saver saver = this->saver();
  save(saver, 1);
  saver.wait();
  fs::rename(run / "source", run / "elsewhere");
  save(saver, 2);
  saver.wait();
  EXPECT_EQ(complete_checkpoints(run).size(), 1);
  EXPECT_FALSE(fs::exists(partial_directory(run, 2)));
  EXPECT_THAT(test::error_of<AgreedError>([&] { saver.finish(); }), StartsWith("checkpoint of step 2: "));
  fs::rename(run / "elsewhere", run / "source");
  save(saver, 3);
  saver.finish();
  EXPECT_THAT(weights(State(checkpoint(3))), Each(3));
}

TEST_F(SaverTest, ReadingNamesTheFileThatIsDamaged) {
  Saver saver = this->saver();
  save(saver, 1, true);
  const State before(checkpoint(1));
  const Part part = before.manifest().tensors.at("parameters/base.w").front();
  std::fstream file(checkpoint(1) / "rank_0000.h5", std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(part.position + 17);
  file.put('\x55');
  file.close();
  EXPECT_THAT(test::error_of<DamageError>([&] { weights(State(checkpoint(1))); }),
              HasSubstr("rank_0000.h5: dataset parameters/base.w: the checksum"));
}

}  // namespace
}  // namespace mtp::checkpoint
