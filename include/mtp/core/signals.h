#pragma once

#include <csignal>

namespace mtp {

/// While it lives, SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 (the warnings that batch systems send) no longer end
/// the program but are counted, so that a run can stop at a place of its choice. One that is ignored stays so. One at a
/// time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int received() const;

 private:
  static constexpr int count = 5;
  struct sigaction before_[count];
};

}  // namespace mtp
