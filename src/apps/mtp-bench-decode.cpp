// mtp-bench-decode --base DIR --drafter DIR --prompts FILE: decoding with and without the drafter.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "decode_options.h"
#include "mtp/core/progress.h"
#include "mtp/data/prompts_file.h"
#include "mtp/decode/report.h"
#include "mtp/hf/end_tokens.h"
#include "mtp/hf/safetensors.h"
#include "mtp/train/media.h"
#include "parallel_program.h"
#include "program.h"

namespace {

namespace po = boost::program_options;
using namespace mtp;

struct CommandLine {
  apps::DecodeOptions decoding;
  std::filesystem::path prompts, json, logits;
  std::vector<std::int64_t> drafts = {4};
  std::string mode = "both", ignore_eos = "false";

  bool plain() const { return mode != "drafted"; }
  bool drafted() const { return mode != "plain"; }
};

/// None for --help and --version, which it answers.
std::optional<CommandLine> parse(int argc, char** argv) {
  CommandLine line;
  po::options_description options("mtp-bench-decode: decoding with and without the drafter, greedy or sampled");
  const auto word = [](std::string* value) { return po::value(value)->default_value(*value); };
  line.decoding.add_pair_to(options);
  options.add_options()("prompts", po::value(&line.prompts)->required(),
                        "prompts file of scripts/prepare_data.py --prompts")(
      "drafts", po::value(&line.drafts)->multitoken()->default_value(line.drafts, "4"),
      "tokens drafted for one forward of the base, 1 to 64; of several numbers (2 4 6) the fastest is named")(
      "mode", word(&line.mode), "both, plain or drafted");
  line.decoding.add_to(options);
  options.add_options()("ignore-eos", word(&line.ignore_eos), "true: go on after an end token; true or false")(
      "json", po::value(&line.json), "file for the results")(
      "logits", po::value(&line.logits), "safetensors file for the base's logits after each prompt");
  if (!apps::parse(argc, argv, options)) return std::nullopt;
  line.decoding.check();
  for (const std::int64_t drafts : line.drafts) apps::check_range("drafts", drafts, 1, 64);
  apps::check_choice("mode", line.mode, {"both", "plain", "drafted"});
  apps::check_choice("ignore-eos", line.ignore_eos, {"true", "false"});
  return line;
}

struct Prompt {
  std::vector<std::int64_t> ids;
  std::string kind;
  data::Images images;
  data::Clips clips;

  decode::Media media() const { return {train::image_input(images), train::clip_input(clips)}; }
};

std::vector<Prompt> read_prompts(const CommandLine& line, const data::PromptsFile& file, const model::Pair& pair) {
  const hf::TextConfig& base = pair.base_config.text;
  const std::string name = line.prompts.string();
  file.check_base(pair.base_directory, base.vocab_size);
  file.check_images(pair.base_directory, train::vision_input(pair.base_config));
  file.check_audio(pair.base_directory, train::audio_input(pair.base_config));
  const std::int64_t most = std::min(base.max_position_embeddings, pair.drafter_config.text.max_position_embeddings);
  std::vector<Prompt> prompts;
  for (std::int64_t i = 0; i < file.prompts(); ++i) {
    const Prompt& prompt = prompts.emplace_back(file.prompt(i, pair.base_config.special_ids()), file.kind(i),
                                                file.images(i), file.clips(i));
    if (const std::int64_t length = std::ssize(prompt.ids); length + line.decoding.max_new_tokens > most)
      throw UsageError(
          "option --max-new-tokens: prompt {} of {} has {} tokens, with {} new ones it exceeds the pair's "
          "max_position_embeddings {}",
          i, name, length, line.decoding.max_new_tokens, most);
  }
  return prompts;
}

/// Appends what came of some prompts.
void decode_prompts(const decode::Decoder& decoder, std::span<const Prompt> prompts, decode::DecodeResult& result) {
  const std::size_t first = result.completions.size();
  result.completions.resize(first + prompts.size());
  for (const Prompt& prompt : prompts) {
    result.prompt_tokens.push_back(std::ssize(prompt.ids));
    if (!prompt.kind.empty()) result.kinds.push_back(prompt.kind);
  }
  std::size_t begun = 0;
  const auto next = [&]() -> std::optional<decode::Request> {
    if (begun == prompts.size()) return std::nullopt;
    const Prompt& prompt = prompts[begun];
    return decode::Request{
        .number = static_cast<std::int64_t>(first + begun++), .prompt = prompt.ids, .media = prompt.media()};
  };
  const auto done = [&](const decode::Request& request, decode::Completion completion) {
    result.completions[static_cast<std::size_t>(request.number)] = std::move(completion);
  };
  decoder.run(next, done, result.drafts > 0);
}

/// Tensors "0", "1", … [V], one for each prompt.
void write_logits(const std::filesystem::path& path, const decode::Decoder& decoder, const std::vector<Prompt>& prompts,
                  std::int64_t vocab_size) {
  std::vector<hf::TensorEntry> entries;
  for (std::size_t i = 0; i < prompts.size(); ++i) entries.push_back({std::to_string(i), "F32", {vocab_size}});
  hf::SafetensorsWriter writer(path, entries);
  for (const Prompt& prompt : prompts) {
    const std::vector<float> logits = decoder.logits_after(prompt.ids, prompt.media());
    writer.append(std::as_bytes(std::span(logits)));
  }
  writer.finish();
}

Json to_json(const CommandLine& line, const Device& device, DType dtype) {
  return {{"base", line.decoding.base.string()},
          {"drafter", line.decoding.drafter.string()},
          {"prompts", line.prompts.string()},
          {"batch", line.decoding.batch},
          {"drafts", line.drafts.front()},
          {"max_new_tokens", line.decoding.max_new_tokens},
          {"temperature", line.decoding.sampling.temperature},
          {"top_k", line.decoding.sampling.top_k},
          {"top_p", line.decoding.sampling.top_p},
          {"seed", line.decoding.sampling.seed},
          {"mode", line.mode},
          {"position_offset", line.decoding.position_offset},
          {"ignore_eos", line.ignore_eos == "true"},
          {"device", device.name()},
          {"compute_dtype", to_string(dtype)},
          {"threads", device.threads().threads()}};
}

/// Of several numbers of drafts the fastest is "drafted".
Json results(Json settings, std::span<const decode::DecodeResult> runs) {
  Json all;
  const auto drafted = runs.subspan(runs.front().drafts == 0 ? 1 : 0);
  if (drafted.size() < runs.size()) all["plain"] = decode::to_json(runs.front());
  if (!drafted.empty()) {
    const decode::DecodeResult& best = decode::fastest(drafted);
    settings["drafts"] = best.drafts;
    all["drafted"] = decode::to_json(best);
  }
  if (drafted.size() > 1)
    for (const decode::DecodeResult& run : drafted) all["by_drafts"][std::to_string(run.drafts)] = decode::summary(run);
  all["settings"] = std::move(settings);
  return all;
}

int run(int argc, char** argv, const parallel::Communicator& communicator) {
  if (communicator.size() > 1) {
    if (!communicator.is_first()) return 2;
    throw UsageError("mtp-bench-decode runs on one process; start it without mpirun");
  }
  const std::optional<CommandLine> line = parse(argc, argv);
  if (!line) return 0;
  const Settings settings = line->decoding.settings();
  apps::check_output("json", line->json);
  apps::check_output("logits", line->logits);
  const data::PromptsFile file(line->prompts);
  model::Pair pair(settings, {.vision = file.images().has_value(), .audio = file.audio().has_value()});
  pair.table.freeze();
  const std::vector<Prompt> prompts = read_prompts(*line, file, pair);
  decode::Options options{.batch = line->decoding.batch,
                          .max_new_tokens = line->decoding.max_new_tokens,
                          .position_offset = line->decoding.position_offset,
                          .end_tokens = {},
                          .sampling = line->decoding.sampling};
  if (line->ignore_eos == "false") options.end_tokens = hf::read_end_tokens(line->decoding.base);

  Device device = apps::device_of(settings, communicator);
  const DType dtype = line->decoding.dtype_on(device);
  // Nothing is trained: the weights are there once.
  parallel::Sharding sharding{.device = device, .communicator = communicator, .compute_dtype = dtype};
  model::Parameters parameters(pair.table, sharding, dtype);
  parameters.load(pair, device);
  std::vector<decode::DecodeResult> runs;  // without the drafter first
  if (line->plain()) runs.emplace_back();
  if (line->drafted())
    for (const std::int64_t drafts : line->drafts) runs.emplace_back().drafts = drafts;
  std::vector<std::unique_ptr<decode::Decoder>> decoders;
  for (const decode::DecodeResult& run : runs) {
    if (run.drafts > 0) options.drafts = run.drafts;
    decoders.push_back(std::make_unique<decode::Decoder>(device, pair, parameters, options));
  }
  // One prompt after the other is decoded in all ways in turn, so that all meet the same machine.
  const std::size_t at_once = line->decoding.batch == 1 ? 1 : prompts.size();
  Progress progress("decoding", std::ssize(prompts), "prompts");
  for (std::size_t first = 0; first < prompts.size(); first += at_once) {
    const std::span part = std::span(prompts).subspan(first, at_once);
    for (std::size_t way = 0; way < runs.size(); ++way) decode_prompts(*decoders[way], part, runs[way]);
    progress.add(std::ssize(part));
  }
  if (line->decoding.sampling.is_greedy())
    for (const decode::DecodeResult& run : runs)
      for (std::size_t i = 0; i < prompts.size(); ++i)
        MTP_ASSERT(run.completions[i].output_ids == runs.front().completions[i].output_ids);

  std::cout << decode::to_table(runs, decoders.front()->bytes_per_forward());
  if (!line->logits.empty()) write_logits(line->logits, *decoders.front(), prompts, pair.base_config.text.vocab_size);
  if (!line->json.empty()) write_json(line->json, results(to_json(*line, device, dtype), runs));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::parallel::MpiSession session(argc, argv);
  const mtp::parallel::Communicator communicator;
  return mtp::apps::run_program([&] { return run(argc, argv, communicator); });
}
