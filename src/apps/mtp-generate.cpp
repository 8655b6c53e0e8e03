// mtp-generate --base DIR --drafter DIR --prompts FILE --out FILE: a base's own answers, as a data file.

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "decode_options.h"
#include "mtp/checkpoint/fingerprint.h"
#include "mtp/checkpoint/run_directory.h"
#include "mtp/core/file.h"
#include "mtp/core/progress.h"
#include "mtp/generate/generator.h"
#include "mtp/hf/end_tokens.h"
#include "parallel_program.h"
#include "program.h"

namespace {

namespace po = boost::program_options;
namespace fs = std::filesystem;
using namespace mtp;
using parallel::Communicator;

struct CommandLine {
  bool goes_on = false;  // false after --help
  apps::DecodeOptions decoding;
  fs::path prompts, data, out;
  std::string turns = "all";
  std::int64_t drafts = 4, timeout_minutes = 1440;

  bool with_drafter() const { return drafts > 0; }
  const fs::path& source() const { return prompts.empty() ? data : prompts; }
  const char* source_option() const { return prompts.empty() ? "data" : "prompts"; }
  /// Answers on their way.
  fs::path folder() const { return out.string() + ".answers"; }
};

CommandLine parse(int argc, char** argv, std::ostream& out) {
  CommandLine line;
  po::options_description options(
      "mtp-generate: writes a base's own answers as a data file for mtp-train; under mpirun, the ranks share the work. "
      "Killed and started again, it goes on");
  line.decoding.batch = 8;
  line.decoding.add_pair_to(options);
  options.add_options()("prompts", po::value(&line.prompts), "answer the prompts of this file")(
      "data", po::value(&line.data), "or the conversations of this data file")(
      "turns", po::value(&line.turns)->default_value(line.turns),
      "of a conversation: all answers anew, each behind the new ones before it, or the last")(
      "out", po::value(&line.out)->required(), "data file to write")(
      "drafts", po::value(&line.drafts)->default_value(line.drafts),
      "tokens drafted for one forward of the base, 0 (without the drafter) to 64");
  line.decoding.add_to(options);
  options.add_options()("timeout-minutes", po::value(&line.timeout_minutes)->default_value(line.timeout_minutes),
                        "how long a rank that is done waits for the others");
  line.goes_on = apps::parse(argc, argv, options, {}, out);
  if (!line.goes_on) return line;
  line.decoding.check();
  if (line.prompts.empty() == line.data.empty()) throw UsageError("options --prompts and --data: give one of the two");
  apps::check_choice("turns", line.turns, {"all", "last"});
  apps::check_range("drafts", line.drafts, 0, 64);
  apps::check_range("timeout-minutes", line.timeout_minutes, 1, 1 << 30);
  apps::check_output("out", line.out);
  if (!is_missing(line.out) && is_missing(line.folder()))
    throw UsageError("option --out: {} is there; remove it to generate it anew", line.out.string());
  return line;
}

/// What a job reads, on every rank.
struct Inputs {
  explicit Inputs(const CommandLine& line)
      : conversations(line.prompts.empty()
                          ? generate::Conversations::of_data(
                                line.data, line.turns == "last" ? generate::Turns::last : generate::Turns::all)
                          : generate::Conversations::of_prompts(line.prompts)),
        settings(line.decoding.settings()),
        pair(settings) {
    const hf::TextConfig& base = pair.base_config.text;
    conversations.check_base(pair.base_directory, base.vocab_size);
    pair.table.freeze();
    settings.data.train = line.source();
    limits = {
        .new_tokens = line.decoding.max_new_tokens,
        .positions = std::min(base.max_position_embeddings, pair.drafter_config.text.max_position_embeddings),
        .end_tokens = hf::read_end_tokens(line.decoding.base),
        .refused = pair.base_config.special_ids(),
    };
  }

  generate::Conversations conversations;
  Settings settings;
  model::Pair pair;
  generate::Limits limits;
};

/// What the answers depend on, by option.
Json job_of(const CommandLine& line, const Device& device, const checkpoint::Fingerprints& fingerprints) {
  const apps::DecodeOptions& decoding = line.decoding;
  Json job{{"turns", line.turns},
           {"drafts", line.drafts},
           {"max-new-tokens", decoding.max_new_tokens},
           {"temperature", decoding.sampling.temperature},
           {"top-k", decoding.sampling.top_k},
           {"top-p", decoding.sampling.top_p},
           {"seed", decoding.sampling.seed},
           {"position-offset", decoding.position_offset},
           {"device", device.kind() == Device::Kind::cpu ? "cpu" : "cuda"},
           {"compute-dtype", to_string(decoding.dtype_on(device))}};
  for (const auto& [file, fingerprint] : fingerprints) {
    const std::string model = "model.";
    job[file.starts_with(model) ? file.substr(model.size())
                                : fmt::format("{}/{}", line.source_option(), line.source().filename().string())] =
        fingerprint;
  }
  return job;
}

/// What is left to do, by rank 0's view of the folder, which the others may not see yet.
struct Rest {
  std::vector<std::int64_t> conversations;
  std::int64_t next_part = 0;
};

Rest find_rest(const CommandLine& line, std::int64_t conversations, const Communicator& communicator) {
  std::vector<std::int64_t> shared(static_cast<std::size_t>(conversations) + 1);  // 1: done; and the next part
  parallel::agree(communicator, "the answers so far", [&] {
    if (!communicator.is_first()) return;
    const generate::AnswersReader answers(line.folder(), conversations);
    for (std::int64_t i = 0; i < conversations; ++i) shared[i] = answers.has(i);
    shared.back() = answers.next_part();
  });
  communicator.broadcast(std::as_writable_bytes(std::span(shared)), "what is answered");
  Rest rest{.conversations = {}, .next_part = shared.back()};
  for (std::int64_t i = 0; i < conversations; ++i)
    if (shared[i] == 0) rest.conversations.push_back(i);
  return rest;
}

/// This rank's share, every so many of the rest.
void answer_share(const CommandLine& line, const Inputs& inputs, const Rest& rest, Device& device,
                  const Communicator& communicator) {
  std::vector<std::int64_t> share;
  for (std::size_t i = communicator.rank(); i < rest.conversations.size(); i += communicator.size())
    share.push_back(rest.conversations[i]);
  const std::unique_ptr<Communicator> alone = communicator.split([](int rank) { return rank; });
  if (share.empty()) return;
  const DType dtype = line.decoding.dtype_on(device);
  parallel::Sharding sharding{.device = device, .communicator = *alone, .compute_dtype = dtype};
  model::Parameters parameters(inputs.pair.table, sharding, dtype);
  parameters.load(inputs.pair, device);
  const decode::Decoder decoder(device, inputs.pair, parameters,
                                {.batch = line.decoding.batch,
                                 .drafts = std::max<std::int64_t>(line.drafts, 1),
                                 .position_offset = line.decoding.position_offset,
                                 .end_tokens = inputs.limits.end_tokens,
                                 .sampling = line.decoding.sampling});
  generate::AnswersWriter writer(line.folder(), rest.next_part + communicator.rank());
  Progress progress("answering", std::ssize(share), "conversations");
  const auto begin = std::chrono::steady_clock::now();
  std::int64_t tokens = 0;
  generate::Generator(decoder, inputs.conversations, inputs.limits)
      .answer(share, line.with_drafter(), [&](std::int64_t conversation, const generate::Answers& answers) {
        writer.append(conversation, answers);
        for (const auto& answer : answers) tokens += std::ssize(answer);
        progress.add();
      });
  writer.sync();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  spdlog::info("this rank's {} conversations are answered: {} tokens, {:.1f} tokens/s", share.size(), tokens,
               static_cast<double>(tokens) / seconds);
}

void write_data(const CommandLine& line, const Inputs& inputs) {
  const generate::Conversations& conversations = inputs.conversations;
  const generate::AnswersReader answers(line.folder(), conversations.count());
  const auto sample = [&](std::int64_t i) {
    return generate::sample_of(conversations.contexts(i, inputs.limits.refused), answers.read(i));
  };
  std::vector<std::int64_t> answered, lengths;
  for (std::int64_t i = 0; i < conversations.count(); ++i)
    if (const std::int64_t length = std::ssize(sample(i).tokens); length > 0) {
      answered.push_back(i);
      lengths.push_back(length);
    }
  if (answered.empty())
    throw Error("{}: nothing in it can be answered; {} is not written", line.source().string(), line.out.string());
  data::DataWriter writer(line.out, conversations.header(), lengths);
  for (const std::int64_t i : answered) {
    const data::Sample one = sample(i);
    writer.append(one.tokens, one.is_target);
  }
  writer.finish();
  std::cout << fmt::format("{}: {} samples", line.out.string(), answered.size());
  if (const std::int64_t left = conversations.count() - std::ssize(answered); left > 0)
    std::cout << fmt::format("; {} left out, which had nothing to answer or no room for an answer", left);
  std::cout << "\n";
}

/// Half of a folder of answers would be a job to go on with.
void remove_in_one_step(const fs::path& folder) {
  const fs::path aside = folder.parent_path() / ("." + folder.filename().string());
  fs::remove_all(aside);
  fs::rename(folder, aside);
  fs::remove_all(aside);
}

int generate_answers(int argc, char** argv, Communicator& communicator) {
  std::ostream nowhere(nullptr);
  CommandLine line;
  parallel::agree(communicator, "the options",
                  [&] { line = parse(argc, argv, communicator.is_first() ? std::cout : nowhere); });
  if (!line.goes_on) return 0;
  communicator.set_timeout(static_cast<double>(line.timeout_minutes));
  std::optional<Inputs> inputs;
  parallel::agree(communicator, "the opening of the inputs", [&] { inputs.emplace(line); });
  Device device = apps::device_of(inputs->settings, communicator, "option --device");
  const Json job = job_of(line, device, checkpoint::take_fingerprints(inputs->settings, communicator));

  std::optional<checkpoint::RunDirectory> lock;
  parallel::agree(communicator, "the folder of answers", [&] {
    if (!communicator.is_first()) return;
    lock.emplace(line.folder());
    generate::begin_job(line.folder(), job);
  });
  if (!communicator.is_first()) lock.emplace(checkpoint::RunDirectory::of_other_rank(line.folder()));
  const Rest rest = find_rest(line, inputs->conversations.count(), communicator);
  answer_share(line, *inputs, rest, device, communicator);

  if (!communicator.is_first()) lock.reset();  // the folder goes
  communicator.barrier("the end of all answers");
  parallel::agree(communicator, "the data file", [&] {
    if (!communicator.is_first()) return;
    write_data(line, *inputs);
    lock.reset();
    remove_in_one_step(line.folder());
  });
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::parallel::MpiSession session(argc, argv);
  mtp::parallel::Communicator communicator;
  return mtp::apps::run_parallel(communicator, [&] { return generate_answers(argc, argv, communicator); });
}
