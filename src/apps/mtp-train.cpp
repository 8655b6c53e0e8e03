// mtp-train [--config FILE] [--section.key value …]: trains a base and its drafter together.

#include <cstdlib>
#include <iostream>
#include <thread>

#include "mtp/core/log.h"
#include "mtp/core/version.h"
#include "mtp/ops/cuda_devices.h"
#include "mtp/train/trainer.h"
#include "parallel_program.h"

namespace {

using namespace mtp;

/// Threads of this rank: the setting, else OMP_NUM_THREADS, else this machine's cores shared by its ranks.
int threads_of(const Settings& settings, const dist::Communicator& communicator) {
  if (settings.run.threads > 0) return static_cast<int>(settings.run.threads);
  if (const char* set = std::getenv("OMP_NUM_THREADS"); set != nullptr && std::atoi(set) > 0) return std::atoi(set);
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / communicator.ranks_on_this_node());
}

void print_version() {
  const ops::CudaDevices cuda = ops::find_cuda_devices();
  std::cout << version_text("mtp-train") << "CUDA devices " << cuda.count << " (" << cuda.remark << ")\n";
}

int run(int argc, char** argv, dist::Communicator& communicator) {
  CommandLine command;
  dist::agree(communicator, "the settings", [&] { command = parse_settings(argc, argv); });
  if (command.action != CommandLine::Action::run) {
    if (!communicator.is_first()) return 0;
    if (command.action == CommandLine::Action::help) print_help(std::cout, "mtp-train");
    if (command.action == CommandLine::Action::version) print_version();
    return 0;
  }
  start_log(communicator.rank());
  communicator.set_timeout(command.settings.dist.timeout_minutes);
  Device device(threads_of(command.settings, communicator));
  train::Trainer trainer(command.settings, device, communicator);
  trainer.run();
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::dist::MpiSession session(argc, argv);
  mtp::dist::Communicator communicator;
  return mtp::apps::run_parallel(communicator, [&] { return run(argc, argv, communicator); });
}
