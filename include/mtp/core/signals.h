#pragma once

#include <csignal>

namespace mtp {

/// While it lives, SIGTERM, SIGINT and SIGUSR1 (the warning that batch systems send) no longer end the program but are
/// counted, so that a run can stop at a place of its choice. One at a time.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  int received() const;

 private:
  static constexpr int count = 3;
  struct sigaction before_[count];
};

}  // namespace mtp
