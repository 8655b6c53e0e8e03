#include "mtp/parallel/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace mtp::parallel {
namespace {

TEST(Communicator, GathersTextsOfUnequalLengthInRankOrder) {
  const Communicator communicator;
  const std::vector<std::string> all = communicator.all_gather(std::string(communicator.rank(), 'x'), "texts");
  for (int r = 0; r < communicator.size(); ++r) EXPECT_EQ(all[r], std::string(r, 'x'));
}

TEST(Communicator, NamesTheRankThatDoesNotCome) {
  const Communicator everyone;
  const int missing = everyone.size() - 1;  // a single rank waits for nobody
  const bool comes = everyone.rank() != missing || everyone.size() == 1;
  Communicator communicator;
  communicator.set_timeout(0.02);
  std::string message;
  try {
    if (comes) communicator.barrier("a test");
  } catch (const Error& error) {
    message = error.what();
  }
  const std::string expected =
      fmt::format("no answer from rank {} for 0.02 minutes (dist.timeout_minutes) in the barrier of a test; ", missing);
  const std::vector<std::string> messages = everyone.all_gather(message, "messages");
  for (int r = 0; r < missing; ++r) EXPECT_THAT(messages[r], testing::StartsWith(expected)) << "rank " << r;
  EXPECT_EQ(messages[missing], "");
}

TEST(Communicator, AGroupNamesTheRankThatDoesNotComeAsTheJobDoes) {
  const Communicator everyone;
  Communicator communicator;
  communicator.set_timeout(0.02);
  const auto group = communicator.split([](int rank) { return rank % 2; });  // the last one's lacks that rank
  const int missing = everyone.size() - 1;
  std::string message;
  try {
    if (everyone.rank() != missing && everyone.rank() % 2 == missing % 2) group->barrier("a test");
  } catch (const Error& error) {
    message = error.what();
  }
  const std::vector<std::string> messages = everyone.all_gather(message, "messages");
  for (int r = missing % 2; r < missing; r += 2)
    EXPECT_THAT(messages[r], testing::ContainsRegex(fmt::format("^no answer from ranks? .*{} for 0.02 min", missing)));
}

TEST(Communicator, GivesTheErrorToItsHandler) {
  const Communicator everyone;
  Communicator communicator;
  communicator.set_timeout(0.02);
  bool called = false;
  struct Ended {};
  communicator.on_missing_ranks([&](const Error&) {
    called = true;
    throw Ended();
  });
  try {
    if (communicator.is_first()) communicator.barrier("a test");  // nobody else comes
  } catch (const Ended&) {
  }
  EXPECT_EQ(called, communicator.is_first() && communicator.size() > 1);
  everyone.barrier("the end of a test");
}

TEST(Communicator, WaitsLongerWhereWorkIsLong) {
  Communicator communicator;
  communicator.set_timeout(0.01);
  const LongerWait longer_wait(communicator);
  if (communicator.is_first()) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  communicator.barrier("a test");
}

}  // namespace
}  // namespace mtp::parallel
