// mtp-bench-step: joint training steps, and where their time goes.

#include <boost/program_options.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "joint_step.h"
#include "support/main.h"
#include "support/shapes.h"

namespace {

using namespace mtp;
using namespace mtp::bench;

/// What is empty depends on the device.
struct Options {
  std::vector<std::string> presets;
  Cut cut;
  std::vector<std::int64_t> lengths;
  std::int64_t micro_batches = 2;
  std::string reduction = "ordered", dtype;
  bool recompute = false;
  std::filesystem::path directory = std::filesystem::temp_directory_path();
};

Settings settings_of(const Options& options, const PairOnDisk& pair, int ranks) {
  Settings settings;
  settings.model = {.base = pair.base(), .drafter = pair.drafter()};
  settings.train.global_batch = options.micro_batches * ranks;
  settings.train.recompute = options.recompute;
  settings.train.compute_dtype = options.dtype == "bf16" ? ComputeType::bf16 : ComputeType::fp32;
  settings.dist.reduction = options.reduction == "fast" ? Reduction::fast : Reduction::ordered;
  return settings;
}

/// Training lowers the loss of its own tokens at once.
void check(JointStep& step, double first_loss) {
  constexpr double lr = 1e-3;
  step.run(lr);
  const double loss = step.run(lr);
  if (!(loss < first_loss)) throw Error("training: the base's loss went from {} to {} in two steps", first_loss, loss);
  step.reset();
}

/// Means over the ranks.
void count_phases(const parallel::Communicator& communicator, const Phases& mine, benchmark::UserCounters& counters) {
  const std::vector<double> phases{mine.compute, mine.communication, mine.optimizer, mine.total()};
  const std::vector<double> all = communicator.all_gather(phases, "the phases of steps");
  const auto sum = [&](std::size_t phase) {
    double seconds = 0;
    for (std::size_t i = phase; i < all.size(); i += phases.size()) seconds += all[i];
    return seconds;
  };
  counters["share_of_compute"] = sum(0) / sum(3);
  counters["share_of_communication"] = sum(1) / sum(3);
  counters["share_of_optimizer"] = sum(2) / sum(3);
}

Work work(Suite& suite, Device& device, const hf::Preset& shape, const Options& options, std::int64_t length) {
  constexpr double lr = 1e-5;
  const parallel::Communicator& communicator = suite.communicator();
  const parallel::LongerWait longer_wait(communicator);  // writing and reading a pair takes its time
  const PairOnDisk pair(communicator, shape, options.directory);
  const auto step =
      std::make_shared<JointStep>(communicator, device, settings_of(options, pair, communicator.size()), length);
  communicator.barrier("the reading of a random pair");
  const auto first_loss = std::make_shared<double>(0);
  return {.run = [=] { *first_loss = step->run(lr); },
          .check = [=] { check(*step, *first_loss); },
          .flops = step->flops(),
          .flops_type = step->type(),
          .count =
              [=, &suite, &communicator, &device](benchmark::UserCounters& counters, double seconds) {
                counters["tokens"] = static_cast<double>(step->tokens());
                counters["tokens_per_second"] = static_cast<double>(step->tokens()) / seconds;
                counters["flops_utilisation"] = step->flops() / seconds / suite.floors().matrix_rate(step->type());
                counters["memory_peak"] =
                    static_cast<double>(communicator.max(device.memory_peak(), "the memory of the ranks"));
                if (device.kind() == Device::Kind::cuda) step->run_by_phases(lr);
                count_phases(communicator, step->phases(), counters);
              }};
}

/// The preset, and what it is cut down to.
std::string name_of(const std::string& preset, const Cut& cut) {
  std::string name = preset;
  if (cut.layer_groups > 0) name += fmt::format("-layer-groups-{}", cut.layer_groups);
  if (cut.vocabulary > 0) name += fmt::format("-vocabulary-{}", cut.vocabulary);
  return name;
}

std::string name_of(const std::string& preset, const Options& options, std::int64_t length) {
  return fmt::format("joint_step/{}/{}/{}/{}{}", name_of(preset, options.cut), options.dtype, length, options.reduction,
                     options.recompute ? "/recompute" : "");
}

Options with_defaults(Options options, Device::Kind kind) {
  const bool on_gpu = kind == Device::Kind::cuda;
  using Names = std::vector<std::string>;
  using Lengths = std::vector<std::int64_t>;
  if (options.presets.empty())
    options.presets = on_gpu ? Names{"e4b"} : Names{"17m", "small", "e4b-mini", "26b-a4b-mini"};
  if (options.lengths.empty()) options.lengths = on_gpu ? Lengths{2048, 4096} : Lengths{512};
  if (options.dtype.empty()) options.dtype = on_gpu ? "bf16" : "fp32";
  return options;
}

void check_options(const Options& options) {
  for (const std::int64_t length : options.lengths)
    if (length < 8) throw UsageError("option --length: {} is below 8", length);
  if (options.micro_batches < 1) throw UsageError("option --micro-batches: {} is below 1", options.micro_batches);
  if (options.reduction != "ordered" && options.reduction != "fast")
    throw UsageError("option --reduction: {} is neither ordered nor fast", options.reduction);
  if (options.dtype != "fp32" && options.dtype != "bf16")
    throw UsageError("option --dtype: {} is neither fp32 nor bf16", options.dtype);
}

void add_all(Suite& suite, const Options& given) {
  const Options options = with_defaults(given, suite.device_kind());
  parallel::agree(suite.communicator(), "the options", [&] {
    check_options(options);
    for (const std::string& preset : options.presets) {
      const hf::Preset shape = find_shape(preset, options.cut);
      for (const std::int64_t length : options.lengths)
        suite.add(name_of(preset, options, length), "", [shape, options, length, &suite](Device& device) {
          return work(suite, device, shape, options, length);
        });
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  namespace po = boost::program_options;
  Options options;
  po::options_description own;
  own.add_options()("preset", po::value(&options.presets),
                    "a pair's shape, of mtp-make-pair or 17m; may be given more than once (default: 17m, small, "
                    "e4b-mini, 26b-a4b-mini; on a GPU e4b)");
  own.add_options()("layer-groups", po::value(&options.cut.layer_groups)->default_value(0),
                    "of the base: sliding layers up to and with a full one; 0: all");
  own.add_options()("vocabulary", po::value(&options.cut.vocabulary)->default_value(0), "tokens; 0: all");
  own.add_options()("length", po::value(&options.lengths),
                    "positions of a sequence; may be given more than once (default: 512; on a GPU 2048, 4096)");
  own.add_options()("micro-batches", po::value(&options.micro_batches)->default_value(options.micro_batches),
                    "of each rank in a step, one sequence each");
  own.add_options()("reduction", po::value(&options.reduction)->default_value(options.reduction), "ordered or fast");
  own.add_options()("dtype", po::value(&options.dtype),
                    "what is computed with, fp32 or bf16 (default: fp32; on a GPU bf16)");
  own.add_options()("recompute", po::value(&options.recompute)->default_value(false, "false"),
                    "activations instead of keeping them: true or false");
  own.add_options()("directory", po::value(&options.directory)->default_value(options.directory),
                    "where each node keeps a random pair while the program reads it");
  return run(argc, argv,
             {.name = "mtp-bench-step",
              .summary = "times joint training steps, and says where their time goes",
              .options = own,
              .add_all = [&](Suite& suite) { add_all(suite, options); },
              .exchanges_tensors = true});
}
