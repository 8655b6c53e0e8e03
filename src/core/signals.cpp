#include "mtp/core/signals.h"

namespace mtp {

namespace {

constexpr int stop_signals[] = {SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGHUP};
volatile std::sig_atomic_t number_received = 0;

extern "C" void count_signal(int) { number_received = number_received + 1; }

}  // namespace

StopSignals::StopSignals() {
  number_received = 0;
  struct sigaction action = {};
  action.sa_handler = count_signal;
  action.sa_flags = SA_RESTART;  // reading and writing go on
  for (int i = 0; i < count; ++i) {
    sigaction(stop_signals[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(stop_signals[i], &action, nullptr);  // nohup
  }
}

StopSignals::~StopSignals() {
  for (int i = 0; i < count; ++i) sigaction(stop_signals[i], &before_[i], nullptr);
}

int StopSignals::received() const { return number_received; }

}  // namespace mtp
