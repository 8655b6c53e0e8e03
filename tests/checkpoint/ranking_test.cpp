#include "mtp/checkpoint/ranking.h"

#include <gmock/gmock.h>

#include <fstream>

#include "mtp/core/error.h"
#include "support/temp_dir.h"

namespace mtp::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(Ranking, HigherIsBetterOfLengthsAndLowerOfLosses) {
  Ranking lengths(KeepBest::tokens_per_step), losses(KeepBest::loss_base);
  for (const char* line : {R"({"step": 2, "tokens_per_step": 1.5, "loss_base": 3.0})",
                           R"({"step": 4, "tokens_per_step": 2.5, "loss_base": 3.5})",
                           R"({"step": 6, "tokens_per_step": 2.0, "loss_base": 2.5})"}) {
    lengths.add(line);
    losses.add(line);
  }
  EXPECT_THAT(lengths.best_first(), ElementsAre(4, 6, 2));
  EXPECT_EQ(lengths.since_best(), 1);
  EXPECT_THAT(losses.best_first(), ElementsAre(6, 2, 4));
  EXPECT_EQ(losses.since_best(), 0);
}

TEST(Ranking, OfEqualOnesTheEarlierIsTheBest) {
  Ranking ranking(KeepBest::loss_base);
  for (const char* line : {R"({"step": 2, "loss_base": 3.0})", R"({"step": 4, "loss_base": 3.0})"}) ranking.add(line);
  EXPECT_THAT(ranking.best_first(), ElementsAre(2, 4));
  EXPECT_EQ(ranking.since_best(), 1);
}

TEST(Ranking, RoundsCountByTheirMean) {
  Ranking ranking(KeepBest::accuracy_base);
  ranking.add(R"({"step": 2, "accuracy_base": [0.5, 0.1]})");
  ranking.add(R"({"step": 4, "accuracy_base": [0.4, 0.3]})");
  EXPECT_THAT(ranking.best_first(), ElementsAre(4, 2));
}

TEST(Ranking, TheSourcePairAndLinesWithoutTheMetricDoNotCount) {
  Ranking ranking(KeepBest::tokens_per_step), none(KeepBest::none);
  for (const char* line : {R"({"step": 0, "tokens_per_step": 9})", R"({"step": 2, "accepted_length": 2})",
                           R"({"step": 4, "tokens_per_step": 1})"}) {
    ranking.add(line);
    none.add(line);
  }
  EXPECT_THAT(ranking.best_first(), ElementsAre(4));
  EXPECT_THAT(none.best_first(), IsEmpty());
  EXPECT_EQ(none.since_best(), 0);
}

TEST(Ranking, TheBestCheckpointIsTheBestThatIsThere) {
  const test::TempDir dir;
  const fs::path run = dir.path();
  std::ofstream(run / "validation.jsonl") << R"({"step": 2, "loss_base": 3.0})"
                                          << "\n"
                                          << R"({"step": 4, "loss_base": 2.0})"
                                          << "\n"
                                          << R"({"step": 6, "loss_base": 2.5})"
                                          << "\n"
                                          << R"({"step": 8, "loss_ba)";  // a run that was killed
  EXPECT_FALSE(best_checkpoint(run));
  const auto settings =
      [&](const char* keep_best) {
        std::ofstream(run / "settings.cfg")
            << "[model]\nbase = b\ndrafter = d\n[data]\ntrain = t\nvalidation = v\n[train]\nmax_steps = 9\n"
            << "[checkpoint]\nkeep_best = " << keep_best << "\n[validation]\nevery_steps = 2\n";
      };
  settings("loss_base");
  EXPECT_FALSE(best_checkpoint(run));
  for (const char* name : {"step_00000002", "step_00000006"}) fs::create_directories(run / "checkpoints" / name);
  EXPECT_EQ(best_checkpoint(run)->step, 6);
  settings("none");
  EXPECT_FALSE(best_checkpoint(run));
}

}  // namespace
}  // namespace mtp::checkpoint
