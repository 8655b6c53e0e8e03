#include "support/main.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <string_view>
#include <vector>

#include "mtp/core/version.h"
#include "parallel_program.h"
#include "program.h"
#include "support/context.h"

namespace mtp::bench {

namespace {

namespace po = boost::program_options;

/// What ranks other than the first report to.
class SilentReporter : public benchmark::BenchmarkReporter {
 public:
  SilentReporter() {
    SetOutputStream(&nowhere_);
    SetErrorStream(&nowhere_);
  }
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}

 private:
  std::ostream nowhere_{nullptr};
};

constexpr std::string_view out_flag = "--benchmark_out=", random_flag = "--benchmark_enable_random_interleaving";

void check_writable(const std::string& path) {
  if (!std::ofstream(path, std::ios::app)) throw Error("{}: cannot be written; choose another --benchmark_out", path);
}

/// Google Benchmark does not notice a full disk.
void check_written(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (!std::string_view(argv[i]).starts_with(out_flag)) continue;
    const std::filesystem::path path(argv[i] + out_flag.size());
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error) || std::filesystem::file_size(path, error) > 0) continue;
    std::filesystem::remove(path, error);
    throw Error("{}: the results could not be written; free some space or choose another --benchmark_out",
                path.string());
  }
}

/// The arguments as Google Benchmark may see them on this rank: only the first writes files.
std::vector<char*> arguments_of_rank(int argc, char** argv, const parallel::Communicator& communicator) {
  std::vector<char*> arguments;
  for (int i = 0; i < argc; ++i) {
    const std::string_view argument = argv[i];
    // Each rank would draw an order of its own.
    if (argument.starts_with(random_flag) && communicator.size() > 1)
      throw UsageError("option {}: not on several ranks", random_flag);
    if (argument.starts_with(out_flag)) {
      if (!communicator.is_first()) continue;
      check_writable(std::string(argument.substr(out_flag.size())));
    }
    arguments.push_back(argv[i]);
  }
  if (!communicator.is_first()) unsetenv("BENCHMARK_OUT");
  return arguments;
}

bool is_given(int argc, char** argv, std::string_view flag) {
  return std::any_of(argv + 1, argv + argc, [flag](const char* argument) { return argument == flag; });
}

DeviceChoice device_choice(const std::string& device) {
  if (device == "auto") return DeviceChoice::automatic;
  if (device == "cpu") return DeviceChoice::cpu;
  if (device == "cuda") return DeviceChoice::cuda;
  throw UsageError("option --device: {} is none of auto, cpu, cuda", device);
}

void print_help(const Program& program, const po::options_description& options) {
  std::cout << program.name << ": " << program.summary << "\n" << options << "\nand Google Benchmark's own flags:\n";
  benchmark::PrintDefaultHelp();
}

int run_benchmarks(int argc, char** argv, const Program& program, parallel::Communicator& communicator) {
  Settings settings;
  po::options_description options;
  options.add_options()("threads", po::value(&settings.run.threads)->default_value(0),
                        "threads of each rank; 0: OMP_NUM_THREADS, else this machine's cores shared by its ranks");
  std::string device = "auto";
  options.add_options()(
      "device", po::value(&device)->default_value(device),
      "auto, cpu or cuda: each rank takes one of its node's GPUs, auto only where all nodes have some");
  options.add(program.options);
  if (is_given(argc, argv, "--help")) {
    if (communicator.is_first()) print_help(program, options);
    return 0;
  }
  if (is_given(argc, argv, "--version")) return apps::print_version(communicator, program.name);
  parallel::agree(communicator, "the options", [&] {
    std::vector<char*> arguments = arguments_of_rank(argc, argv, communicator);
    int count = static_cast<int>(arguments.size());
    arguments.push_back(nullptr);
    benchmark::Initialize(&count, arguments.data());
    apps::parse(count, arguments.data(), options);
    if (settings.run.threads < 0) throw UsageError("option --threads: {} is below 0", settings.run.threads);
    settings.run.device = device_choice(device);
  });

  Suite suite(communicator, settings, program.exchanges_tensors);
  add_context(communicator, program.name, suite.threads(), suite.device_name());
  program.add_all(suite);
  SilentReporter silent;
  const std::unique_ptr<benchmark::BenchmarkReporter> shown(benchmark::CreateDefaultDisplayReporter());
  const std::size_t matched =
      benchmark::RunSpecifiedBenchmarks(communicator.is_first() ? shown.get() : &silent, nullptr);
  if (matched == 0)
    throw AgreedError("option --benchmark_filter: no benchmark has such a name; see --benchmark_list_tests", 2);
  parallel::agree(communicator, "the end of the benchmark", [&] {
    if (communicator.is_first()) check_written(argc, argv);
  });
  return suite.has_failed() ? 1 : 0;
}

}  // namespace

int run(int argc, char** argv, const Program& program) {
  const parallel::MpiSession session(argc, argv);
  parallel::Communicator communicator;
  return apps::run_parallel(communicator, [&] { return run_benchmarks(argc, argv, program, communicator); });
}

}  // namespace mtp::bench
