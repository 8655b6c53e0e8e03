// mtp-train [--config FILE] [--section.key value …]: trains a base and its drafter together.

#include <algorithm>
#include <iostream>
#include <string_view>
#include <utility>

#include "check_run.h"
#include "mtp/core/log.h"
#include "mtp/parallel/connection.h"
#include "mtp/train/trainer.h"
#include "parallel_program.h"
#include "plan.h"
#include "program.h"

namespace {

using namespace mtp;

int run(int argc, char** argv, parallel::Communicator& communicator) {
  CommandLine command;
  parallel::agree(communicator, "the settings", [&] { command = parse_settings(argc, argv); });
  if (command.action == CommandLine::Action::version) return apps::print_version(communicator, "mtp-train");
  if (command.action == CommandLine::Action::help) {
    if (communicator.is_first()) print_help(std::cout, "mtp-train");
    return 0;
  }
  if (command.quiet) quiet_screen();
  communicator.set_timeout(command.settings.dist.timeout_minutes);
  Device device = apps::device_of(command.settings, communicator);
  const parallel::Connection connection(communicator, device, command.settings.dist.transport);
  train::Inputs inputs = train::Inputs::open(command.settings, device, communicator);
  return apps::exit_code(train::Trainer(std::move(inputs), device, communicator).run());
}

/// For job scripts, login nodes and those who plan a job, where there is no MPI.
int run_alone(int argc, char** argv) {
  const CommandLine command = parse_settings(argc, argv);
  if (command.action == CommandLine::Action::plan) return apps::print_plan(command);
  for (const std::string& value : command.printed) std::cout << value << "\n";
  if (command.action == CommandLine::Action::check) apps::check_run(command.settings);
  return 0;
}

bool runs_alone(int argc, char** argv) {
  const auto is_for_all = [](std::string_view word) { return word == "--help" || word == "--version"; };
  if (std::any_of(argv, argv + argc, is_for_all)) return false;
  return std::any_of(argv, argv + argc, [](std::string_view word) {
    return word == "--print" || word.starts_with("--print=") || word == "--plan" || word == "--check";
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (runs_alone(argc, argv)) return mtp::apps::run_program([&] { return run_alone(argc, argv); });
  const mtp::parallel::MpiSession session(argc, argv);
  mtp::parallel::Communicator communicator;
  return mtp::apps::run_parallel(communicator, [&] { return run(argc, argv, communicator); });
}
