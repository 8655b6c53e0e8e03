// mtp-bench-decode --base DIR --drafter DIR --prompts FILE: decoding with and without the drafter.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <limits>
#include <optional>
#include <string>

#include "mtp/core/progress.h"
#include "mtp/data/prompts_file.h"
#include "mtp/decode/report.h"
#include "mtp/hf/end_tokens.h"
#include "mtp/hf/safetensors.h"
#include "mtp/tensor/cuda_devices.h"
#include "mtp/train/media.h"
#include "parallel_program.h"
#include "program.h"

namespace {

namespace po = boost::program_options;
using namespace mtp;

struct CommandLine {
  std::filesystem::path base, drafter, prompts, json, logits;
  std::int64_t batch = 1, drafts = 4, max_new_tokens = 256, position_offset = 1, threads = 0;
  decode::Sampling sampling;
  std::string mode = "both", device = "auto", compute_dtype, ignore_eos = "false";

  bool plain() const { return mode != "drafted"; }
  bool drafted() const { return mode != "plain"; }
};

void check_choice(const char* option, const std::string& value, const std::vector<std::string>& choices) {
  if (std::find(choices.begin(), choices.end(), value) == choices.end())
    throw UsageError("option --{}: {} is none of {}", option, value, fmt::join(choices, ", "));
}

void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most)
    throw UsageError("option --{}: {} is out of range, it must be {} to {}", option, value, least, most);
}

/// None for --help and --version, which it answers.
std::optional<CommandLine> parse(int argc, char** argv) {
  CommandLine line;
  po::options_description options("mtp-bench-decode: decoding with and without the drafter, greedy or sampled");
  const auto number = [](std::int64_t* value) { return po::value(value)->default_value(*value); };
  const auto word = [](std::string* value) { return po::value(value)->default_value(*value); };
  options.add_options()("base", po::value(&line.base)->required(), "Hugging Face directory of the base")(
      "drafter", po::value(&line.drafter)->required(), "Hugging Face directory of its drafter")(
      "prompts", po::value(&line.prompts)->required(), "prompts file of scripts/prepare_data.py --prompts")(
      "batch", number(&line.batch), "prompts decoded at a time, 1 to 1024")(
      "drafts", number(&line.drafts), "tokens drafted for one forward of the base, 1 to 64")(
      "max-new-tokens", number(&line.max_new_tokens), "tokens after each prompt")("mode", word(&line.mode),
                                                                                  "both, plain or drafted")(
      "temperature", po::value(&line.sampling.temperature)->default_value(0, "0"),
      "0: greedy, the likeliest token; else sampled, by logits divided by this")(
      "top-k", number(&line.sampling.top_k), "sampled among so many of the likeliest tokens; 0: among all")(
      "top-p", po::value(&line.sampling.top_p)->default_value(1, "1"),
      "sampled among the fewest of the likeliest tokens that have this probability together")(
      "seed", po::value(&line.sampling.seed)->default_value(0), "of what is sampled")(
      "position-offset", number(&line.position_offset),
      "distance of the drafter's query from its state: 1 (Hugging Face) or 0 (vLLM, SGLang)")(
      "ignore-eos", word(&line.ignore_eos), "true: go on after an end token; true or false")(
      "device", word(&line.device), "auto (a GPU where there is one), cpu or cuda")(
      "compute-dtype", po::value(&line.compute_dtype),
      "type of weights, keys and values: fp32 or bf16; by default fp32 on a CPU and bf16 on a GPU")(
      "threads", number(&line.threads), "0: OMP_NUM_THREADS, else all cores")("json", po::value(&line.json),
                                                                              "file for the results")(
      "logits", po::value(&line.logits), "safetensors file for the base's logits after each prompt");
  if (!apps::parse(argc, argv, options)) return std::nullopt;
  check_range("batch", line.batch, 1, 1024);
  check_range("drafts", line.drafts, 1, 64);
  check_range("max-new-tokens", line.max_new_tokens, 1, 1 << 30);
  if (const double t = line.sampling.temperature; !(t >= 0 && t <= 100))
    throw UsageError("option --temperature: {} is out of range, it must be 0 to 100", t);
  check_range("top-k", line.sampling.top_k, 0, std::numeric_limits<std::int32_t>::max());
  if (const double p = line.sampling.top_p; !(p > 0 && p <= 1))
    throw UsageError("option --top-p: {} is out of range, it must be more than 0 and at most 1", p);
  check_range("position-offset", line.position_offset, 0, 1);
  check_range("threads", line.threads, 0, 1024);
  check_choice("mode", line.mode, {"both", "plain", "drafted"});
  check_choice("ignore-eos", line.ignore_eos, {"true", "false"});
  check_choice("device", line.device, {"auto", "cpu", "cuda"});
  if (line.device == "cuda")
    if (const CudaDevices found = find_cuda_devices(); found.count == 0)
      throw UsageError("option --device: there is no CUDA device: {}; use cpu", found.remark);
  if (!line.compute_dtype.empty()) check_choice("compute-dtype", line.compute_dtype, {"fp32", "bf16"});
  return line;
}

DType compute_dtype_of(const CommandLine& line, const Device& device) {
  if (line.compute_dtype.empty()) return device.kind() == Device::Kind::cpu ? DType::f32 : DType::bf16;
  return line.compute_dtype == "bf16" ? DType::bf16 : DType::f32;
}

Settings settings_of(const CommandLine& line) {
  Settings settings;
  settings.model.base = line.base;
  settings.model.drafter = line.drafter;
  settings.run.threads = line.threads;
  settings.run.device = line.device == "cuda"  ? DeviceChoice::cuda
                        : line.device == "cpu" ? DeviceChoice::cpu
                                               : DeviceChoice::automatic;
  return settings;
}

struct Prompt {
  std::vector<std::int64_t> ids;
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
    const Prompt& prompt =
        prompts.emplace_back(file.prompt(i, pair.base_config.special_ids()), file.images(i), file.clips(i));
    if (const std::int64_t length = std::ssize(prompt.ids); length + line.max_new_tokens > most)
      throw UsageError(
          "option --max-new-tokens: prompt {} of {} has {} tokens, with {} new ones it exceeds the pair's "
          "max_position_embeddings {}",
          i, name, length, line.max_new_tokens, most);
  }
  return prompts;
}

/// Appends what came of some prompts.
void decode_prompts(const decode::Decoder& decoder, std::span<const Prompt> prompts, bool with_drafter,
                    decode::DecodeResult& result) {
  const std::size_t first = result.completions.size();
  result.completions.resize(first + prompts.size());
  for (const Prompt& prompt : prompts) result.prompt_tokens.push_back(std::ssize(prompt.ids));
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
  decoder.run(next, done, with_drafter);
}

/// Fails before the decoding, not after it.
void check_file(const char* option, const std::filesystem::path& path) {
  if (path.empty()) return;
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  if (std::filesystem::is_directory(path) || !std::filesystem::is_directory(folder))
    throw UsageError("option --{}: {} cannot be written: name a file in a folder that exists", option, path.string());
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
  return {{"base", line.base.string()},
          {"drafter", line.drafter.string()},
          {"prompts", line.prompts.string()},
          {"batch", line.batch},
          {"drafts", line.drafts},
          {"max_new_tokens", line.max_new_tokens},
          {"temperature", line.sampling.temperature},
          {"top_k", line.sampling.top_k},
          {"top_p", line.sampling.top_p},
          {"seed", line.sampling.seed},
          {"mode", line.mode},
          {"position_offset", line.position_offset},
          {"ignore_eos", line.ignore_eos == "true"},
          {"device", device.name()},
          {"compute_dtype", to_string(dtype)},
          {"threads", device.threads().threads()}};
}

int run(int argc, char** argv, const parallel::Communicator& communicator) {
  if (communicator.size() > 1) {
    if (!communicator.is_first()) return 2;
    throw UsageError("mtp-bench-decode runs on one process; start it without mpirun");
  }
  const std::optional<CommandLine> line = parse(argc, argv);
  if (!line) return 0;
  const Settings settings = settings_of(*line);
  check_file("json", line->json);
  check_file("logits", line->logits);
  const data::PromptsFile file(line->prompts);
  model::Pair pair(settings, {.vision = file.images().has_value(), .audio = file.audio().has_value()});
  pair.table.freeze();
  const std::vector<Prompt> prompts = read_prompts(*line, file, pair);
  decode::Options options{.batch = line->batch,
                          .drafts = line->drafts,
                          .max_new_tokens = line->max_new_tokens,
                          .position_offset = line->position_offset,
                          .end_tokens = {},
                          .sampling = line->sampling};
  if (line->ignore_eos == "false") options.end_tokens = hf::read_end_tokens(line->base);

  Device device = apps::device_of(settings, communicator);
  const DType dtype = compute_dtype_of(*line, device);
  // Nothing is trained: the weights are there once.
  parallel::Sharding sharding{.device = device, .communicator = communicator, .compute_dtype = dtype};
  model::Parameters parameters(pair.table, sharding, dtype);
  parameters.load(pair, device);
  const decode::Decoder decoder(device, pair, parameters, options);

  decode::DecodeResult plain, drafted;
  // One prompt after the other is decoded in both ways in turn, so that both meet the same machine.
  const std::size_t at_once = line->batch == 1 ? 1 : prompts.size();
  Progress progress("decoding", std::ssize(prompts), "prompts");
  for (std::size_t first = 0; first < prompts.size(); first += at_once) {
    const std::span part = std::span(prompts).subspan(first, at_once);
    if (line->plain()) decode_prompts(decoder, part, false, plain);
    if (line->drafted()) decode_prompts(decoder, part, true, drafted);
    progress.add(std::ssize(part));
  }
  if (line->mode == "both" && line->sampling.is_greedy())
    for (std::size_t i = 0; i < prompts.size(); ++i)
      MTP_ASSERT(plain.completions[i].output_ids == drafted.completions[i].output_ids);

  std::cout << decode::to_table(line->plain() ? &plain : nullptr, line->drafted() ? &drafted : nullptr,
                                decoder.bytes_per_forward());
  if (!line->logits.empty()) write_logits(line->logits, decoder, prompts, pair.base_config.text.vocab_size);
  if (line->json.empty()) return 0;
  Json json{{"settings", to_json(*line, device, dtype)}};
  if (line->plain()) json["plain"] = decode::to_json(plain, false);
  if (line->drafted()) json["drafted"] = decode::to_json(drafted, true);
  write_json(line->json, json);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const mtp::parallel::MpiSession session(argc, argv);
  const mtp::parallel::Communicator communicator;
  return mtp::apps::run_program([&] { return run(argc, argv, communicator); });
}
