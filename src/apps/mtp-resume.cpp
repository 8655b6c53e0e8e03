// mtp-resume --from RUN_OR_CHECKPOINT [--section.key value …]: goes on with a run as if it had not stopped.

#include <iostream>

#include "mtp/checkpoint/run_directory.h"
#include "mtp/train/trainer.h"
#include "parallel_program.h"

namespace {

using namespace mtp;

int run(int argc, char** argv, dist::Communicator& communicator) {
  ResumeLine command;
  checkpoint::Position position;
  dist::agree(communicator, "the settings", [&] {
    command = parse_resume(argc, argv, [&](const std::filesystem::path& from) {
      position = checkpoint::open(checkpoint::resolve_checkpoint(from));
      return checkpoint::saved_run(position);
    });
  });
  if (command.action == CommandLine::Action::version) return apps::print_version(communicator, "mtp-resume");
  if (command.action == CommandLine::Action::help) {
    if (communicator.is_first()) print_resume_help(std::cout, "mtp-resume");
    return 0;
  }
  communicator.set_timeout(command.settings.dist.timeout_minutes);
  Device device(apps::threads_of(command.settings, communicator));
  return apps::exit_code(train::Trainer(command.settings, device, communicator, position).run());
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::dist::MpiSession session(argc, argv);
  mtp::dist::Communicator communicator;
  return mtp::apps::run_parallel(communicator, [&] { return run(argc, argv, communicator); });
}
