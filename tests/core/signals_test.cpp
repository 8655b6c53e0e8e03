#include "mtp/core/signals.h"

#include <gtest/gtest.h>

namespace mtp {
namespace {

TEST(StopSignals, CountsSignalsInsteadOfEndingTheProgram) {
  const StopSignals signals;
  EXPECT_EQ(signals.received(), 0);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) std::raise(signal);
  EXPECT_EQ(signals.received(), 3);
}

TEST(StopSignals, RestoresWhatWasThereBefore) {
  struct sigaction before, after;
  sigaction(SIGTERM, nullptr, &before);
  { const StopSignals signals; }
  sigaction(SIGTERM, nullptr, &after);
  EXPECT_EQ(before.sa_handler, after.sa_handler);
}

}  // namespace
}  // namespace mtp
