#include "check_run.h"

#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/run_directory.h"
#include "mtp/checkpoint/saver.h"
#include "mtp/core/file.h"
#include "mtp/train/inputs.h"
#include "print_line.h"

namespace mtp::apps {

namespace {

std::string describe(const std::filesystem::path& directory, const hf::TextConfig& model) {
  return fmt::format("{}: {} layers, {} wide, {} tokens", directory.string(), model.num_hidden_layers,
                     model.hidden_size, model.vocab_size);
}

std::string describe(const data::DataFile& file, const Settings& settings) {
  return fmt::format("{}: {} samples, the longest has {} positions; {}", file.path().string(), file.samples(),
                     file.longest(settings.data.max_length),
                     file.tokenizer() ? "made with the base's tokenizer" : "says nothing of its tokenizer");
}

/// The numbers of ranks that a job may have: they share the micro-batches of a step, and what experts there are,
/// evenly.
std::string possible_ranks(const Settings& settings) {
  const std::int64_t micro_batches = settings.train.global_batch / settings.train.micro_batch;
  std::vector<std::int64_t> divisors;
  for (std::int64_t ranks = 1; ranks <= micro_batches; ++ranks)
    if (micro_batches % ranks == 0 && ranks % settings.dist.expert_parallel == 0) divisors.push_back(ranks);
  return fmt::format("{}: what divides the {} micro-batches of a step", fmt::join(divisors, ", "), micro_batches);
}

double in_gib(std::int64_t bytes) { return static_cast<double>(bytes) / (std::int64_t{1} << 30); }

}  // namespace

void check_run(const Settings& settings) {
  const std::filesystem::path& run_dir = settings.run.dir;
  const train::Inputs inputs = train::Inputs::check(settings);
  const std::int64_t bytes = checkpoint::checkpoint_bytes(inputs.pair().table, 1);
  checkpoint::check_run_directory(run_dir);
  checkpoint::check_room(run_dir, bytes, checkpoint::kept_at_most(settings.checkpoint));
  print_line("base", "{}", describe(inputs.pair().base_directory, inputs.pair().base_config.text));
  print_line("drafter", "{}", describe(inputs.pair().drafter_directory, inputs.pair().drafter_config.text));
  print_line("data", "{}", describe(inputs.data(), settings));
  if (const auto& data = inputs.validation_data()) print_line("validation", "{}", describe(*data, settings));
  print_line("steps", "{} of {} sequences", inputs.steps(), settings.train.global_batch);
  print_line("ranks", "{}", possible_ranks(settings));
  print_line("checkpoints", "{:.2f} GiB each, {} at the most are kept; {:.2f} GiB are free", in_gib(bytes),
             checkpoint::kept_at_most(settings.checkpoint), in_gib(free_bytes(checkpoint::existing_part(run_dir))));
  print_line("run directory", "{} can be written and holds no checkpoint", run_dir.string());
  print_line("not checked", "GPUs, their memory, the network: the job finds out");
}

}  // namespace mtp::apps
