// mtp-resume --from RUN_OR_CHECKPOINT [--section.key value …]: goes on with a run as if it had not stopped.

#include <spdlog/spdlog.h>

#include <iostream>
#include <optional>
#include <utility>
#include <vector>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/core/log.h"
#include "mtp/parallel/connection.h"
#include "mtp/train/trainer.h"
#include "parallel_program.h"

namespace {

using namespace mtp;

/// Goes on from a checkpoint. Throws DamagedCheckpoint before anything is changed.
int resume(const ResumeLine& command, const std::filesystem::path& path, parallel::Communicator& communicator) {
  std::optional<checkpoint::State> state = checkpoint::open(path, communicator);
  Settings settings;
  parallel::agree(communicator, "the settings",
                  [&] { settings = resumed_settings(command, checkpoint::saved_run(*state)); });
  std::vector<std::string> different;
  parallel::agree(communicator, "the settings file", [&] { different = differences(command, settings); });
  for (const std::string& line : different) spdlog::info("{}", line);
  communicator.set_timeout(settings.dist.timeout_minutes);
  Device device = apps::device_of(settings, communicator);
  const parallel::Connection connection(communicator, device, settings.dist.transport);
  const train::Resumption from{*state, command.allowed_changes};
  train::Inputs inputs = train::Inputs::open(settings, device, communicator, from);
  if (inputs.nothing_is_left()) {
    checkpoint::verify(*state, communicator);
    const bool is_early = inputs.first_step() < inputs.steps();
    spdlog::info("step {} of {}{}: nothing left to do", inputs.first_step(), inputs.steps(),
                 is_early ? ", ended by validation.patience" : "");
    return 0;
  }
  train::Trainer trainer(std::move(inputs), device, communicator, from);
  state.reset();  // its files must not be open when the run removes it
  return apps::exit_code(trainer.run());
}

int run(int argc, char** argv, parallel::Communicator& communicator) {
  ResumeLine command;
  parallel::agree(communicator, "the command line", [&] { command = parse_resume(argc, argv); });
  if (command.action == CommandLine::Action::version) return apps::print_version(communicator, "mtp-resume");
  if (command.action == CommandLine::Action::help) {
    if (communicator.is_first()) print_resume_help(std::cout, "mtp-resume");
    return 0;
  }
  if (command.quiet) quiet_screen();
  const std::vector<std::filesystem::path> paths = checkpoint::candidates(command.from, communicator);
  for (auto path = paths.begin();;) {
    try {
      return resume(command, *path, communicator);
    } catch (const checkpoint::DamagedCheckpoint& damage) {
      if (++path == paths.end()) throw;
      if (communicator.is_first()) spdlog::warn("damaged: {}; the checkpoint before it is tried", damage.what());
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::parallel::MpiSession session(argc, argv);
  mtp::parallel::Communicator communicator;
  return mtp::apps::run_parallel(communicator, [&] { return run(argc, argv, communicator); });
}
