// mtp-export-hf --from CKPT_OR_RUN --out DIR: writes the trained pair for Hugging Face's from_pretrained.

#include <boost/program_options.hpp>
#include <charconv>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "mtp/checkpoint/export.h"
#include "mtp/checkpoint/ranking.h"
#include "mtp/checkpoint/run_directory.h"
#include "parallel_program.h"
#include "program.h"

namespace {

using namespace mtp;
namespace po = boost::program_options;
namespace fs = std::filesystem;

struct CommandLine {
  bool goes_on = false;  // false after --help
  fs::path from, out;
  bool best = false;
  checkpoint::ExportOptions options;
};

ComputeType parse_dtype(const std::string& text) {
  if (text == "fp32") return ComputeType::fp32;
  if (text == "bf16") return ComputeType::bf16;
  throw UsageError("option --dtype: '{}' is not fp32 or bf16", text);
}

/// "5GB", "200MB", "1000": a number of bytes with a decimal unit, as Hugging Face writes it.
std::uint64_t parse_bytes(const std::string& text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string unit(end, text.data() + text.size());
  for (const auto& [name, factor] :
       {std::pair("", 1ull), {"KB", 1000ull}, {"MB", 1000'000ull}, {"GB", 1000'000'000ull}})
    if (unit == name && error == std::errc() && number > 0 && number < (1ull << 60) / factor) return number * factor;
  throw UsageError("option --max-shard-size: '{}' is not a number of bytes such as 5GB or 200MB", text);
}

CommandLine parse_command(int argc, char** argv, std::ostream& out) {
  CommandLine command;
  std::string dtype, shard_size;
  po::options_description options(
      "mtp-export-hf: writes DIR/base/model/consolidated and DIR/drafter/model/consolidated; under mpirun, the ranks "
      "share the work");
  options.add_options()("from", po::value(&command.from)->required(),
                        "a run directory (its newest checkpoint) or a checkpoint");
  options.add_options()("best", po::bool_switch(&command.best),
                        "of a run, its best checkpoint, by its checkpoint.keep_best");
  options.add_options()("out", po::value(&command.out)->required(), "the directory to write");
  options.add_options()("dtype", po::value(&dtype),
                        "element type of all parameters, fp32 or bf16; default: the source's");
  options.add_options()("max-shard-size", po::value(&shard_size)->default_value("5GB"),
                        "split safetensors files at this size: bytes, KB, MB or GB");
  options.add_options()("adapter", po::bool_switch(&command.options.adapter),
                        "write DIR/base/adapter, a PEFT directory for the source base, in place of the base with its "
                        "adapter merged into it");
  options.add_options()("force", po::bool_switch(&command.options.force), "replace an earlier export");
  command.goes_on = apps::parse(argc, argv, options, {}, out);
  if (!command.goes_on) return command;
  if (!dtype.empty()) command.options.dtype = parse_dtype(dtype);
  command.options.max_file_bytes = parse_bytes(shard_size);
  return command;
}

fs::path source_of(const CommandLine& command) {
  const std::vector<fs::path> named = checkpoint::named_checkpoints(command.from);
  if (!command.best) return named.front();
  if (const auto best = checkpoint::best_checkpoint(command.from)) return best->directory;
  throw Error("option --best: {} has no best checkpoint; name a run that was trained with checkpoint.keep_best",
              command.from.string());
}

int export_pair(int argc, char** argv, parallel::Communicator& communicator) {
  std::ostream nowhere(nullptr);
  CommandLine command;
  fs::path checkpoint;
  parallel::agree(communicator, "the options", [&] {
    command = parse_command(argc, argv, communicator.is_first() ? std::cout : nowhere);
    if (command.goes_on) checkpoint = source_of(command);
  });
  if (!command.goes_on) return 0;
  checkpoint::export_hf(checkpoint, command.out, command.options, communicator);
  if (communicator.is_first()) std::cout << command.out.string() << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::parallel::MpiSession session(argc, argv);
  mtp::parallel::Communicator communicator;
  return mtp::apps::run_parallel(communicator, [&] { return export_pair(argc, argv, communicator); });
}
