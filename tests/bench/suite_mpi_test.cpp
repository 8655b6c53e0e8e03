#include "support/suite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace mtp::bench::test {
namespace {

using Result = benchmark::BenchmarkReporter::Run;

std::function<void()> sleep_for(double seconds) {
  return [=] { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); };
}

/// Keeps what would be printed.
class Recorder : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Result>& reported) override {
    runs.insert(runs.end(), reported.begin(), reported.end());
  }

  std::vector<Result> runs;
};

class SuiteTest : public testing::Test {
 protected:
  void TearDown() override { benchmark::ClearRegisteredBenchmarks(); }

  /// Runs a suite of this one benchmark.
  Result run(const Work& work) {
    suite_.add("work", "a label", [work](Device&) { return work; });
    Recorder recorder;
    benchmark::RunSpecifiedBenchmarks(&recorder, nullptr, "work");
    EXPECT_EQ(recorder.runs.size(), 1u);
    return recorder.runs.at(0);
  }

  static Settings settings() {
    Settings settings;
    settings.run.threads = 1;
    settings.run.device = DeviceChoice::cpu;
    return settings;
  }

  parallel::Communicator communicator_;
  Suite suite_{communicator_, settings(), true};
  int last_rank_ = communicator_.size() - 1;
};

TEST_F(SuiteTest, TheTimeIsThatOfTheSlowestRankWhichIsNamed) {
  constexpr double slow = 0.05;
  const bool is_slow = communicator_.rank() == last_rank_;
  const Result result = run({.run = sleep_for(is_slow ? slow : 0.005), .check = [] {}});
  EXPECT_GE(result.GetAdjustedRealTime() * 1e-6, slow);
  EXPECT_GE(result.counters.at("fastest").value, slow);
  EXPECT_EQ(result.counters.at("slowest_rank").value, last_rank_);
  if (communicator_.size() > 1) {
    EXPECT_GT(result.counters.at("imbalance").value, 1.5);
  }
}

TEST_F(SuiteTest, EveryRankDoesTheSameNumberOfIterations) {
  std::int64_t runs = 0;
  run({.run =
           [&] {
             ++runs;
             sleep_for(1e-4 * (1 + communicator_.rank()))();
           },
       .check = [] {}});
  EXPECT_EQ(communicator_.max(runs, "runs"), -communicator_.max(-runs, "runs"));
  EXPECT_GT(runs, 1);
}

TEST_F(SuiteTest, AWrongResultOnOneRankFailsOnAll) {
  const bool is_wrong = communicator_.rank() == last_rank_;
  std::int64_t runs = 0;
  const Result result = run({.run = [&] { ++runs; },
                             .check =
                                 [=] {
                                   if (is_wrong) throw Error("y is 2, it should be 3");
                                 }});
  EXPECT_TRUE(suite_.has_failed());
  EXPECT_TRUE(result.error_occurred);
  EXPECT_EQ(result.error_message, fmt::format("rank {}: y is 2, it should be 3", last_rank_));
  EXPECT_EQ(runs, 1);
}

TEST_F(SuiteTest, PlainWorkTimedInTurnIsTheFloor) {
  const Result result = run({.run = sleep_for(0.040), .check = [] {}, .plain = sleep_for(0.010)});
  EXPECT_GE(result.counters.at("floor_time").value, 0.010);
  EXPECT_LT(result.counters.at("floor_time").value, 0.040);
  EXPECT_LT(result.counters.at("share_of_floor").value, 1);
}

TEST_F(SuiteTest, WithoutBytesAndFlopsThereIsNoFloor) {
  const Result result = run({.run = sleep_for(1e-3), .check = [] {}});
  EXPECT_THAT(result.counters, testing::Not(testing::Contains(testing::Key("share_of_floor"))));
}

TEST_F(SuiteTest, TheFloorIsTheLargerOfMovingAndComputing) {
  Floors& floors = suite_.floors();
  const double moving = floors.time({.bytes = 1e6}), computing = floors.time({.flops = 1e9});
  EXPECT_GT(moving, 0);
  EXPECT_GT(computing, 0);
  EXPECT_EQ(floors.time({.bytes = 1e6, .flops = 1e9}), std::max(moving, computing));
  EXPECT_DOUBLE_EQ(floors.time({.flops = 2e9}), 2 * computing);
}

}  // namespace
}  // namespace mtp::bench::test
