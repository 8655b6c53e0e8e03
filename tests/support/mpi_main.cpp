// main of the tests that run under mpirun: every rank runs every test; the job fails if a test fails on any rank.

#include <gtest/gtest.h>

#include "mtp/parallel/communicator.h"

namespace {

/// Puts the rank before what a failing rank reports, and keeps quiet about all that passes but on rank 0.
class RankReporter : public testing::EmptyTestEventListener {
 public:
  explicit RankReporter(int rank) : rank_(rank) {}

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      fprintf(stderr, "rank %d: %s:%d: %s\n", rank_, result.file_name(), result.line_number(), result.message());
  }

 private:
  int rank_;
};

}  // namespace

int main(int argc, char** argv) {
  const mtp::parallel::MpiSession session(argc, argv);
  const mtp::parallel::Communicator communicator;
  testing::InitGoogleTest(&argc, argv);
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  if (!communicator.is_first()) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new RankReporter(communicator.rank()));
  }
  const int failed = RUN_ALL_TESTS();
  return communicator.max(failed, "failed tests") == 0 ? 0 : 1;
}
