// mtp-inspect PATH: says what a checkpoint, run, Hugging Face directory or data file holds, and verifies it.

#include <fmt/ranges.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "inspect_checkpoint.h"
#include "mtp/checkpoint/directory.h"
#include "mtp/core/error.h"
#include "mtp/data/data_file.h"
#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"
#include "mtp/hf/vocabulary.h"
#include "mtp/model/pair.h"
#include "print_line.h"
#include "program.h"

namespace {

namespace po = boost::program_options;
namespace fs = std::filesystem;
using namespace mtp;

using apps::print_line;

void print_layers(const hf::TextConfig& text) {
  const auto count = [&](bool hf::LayerShape::*what) { return std::ranges::count(text.layers, true, what); };
  print_line("layers", "{}, {} of them sliding (window {}), {} sharing keys and values", text.num_hidden_layers,
             count(&hf::LayerShape::is_sliding), text.sliding_window, count(&hf::LayerShape::shares_kv));
  for (const hf::LayerType type : {hf::LayerType::sliding, hf::LayerType::full})
    if (const hf::LayerShape* layer = text.layer_of(type))
      print_line(to_string(type), "{} query heads, {} key/value heads of size {}{}", text.num_attention_heads,
                 layer->kv_heads, layer->head_dim, layer->k_eq_v ? ", keys are values" : "");
}

void print_text(const hf::TextConfig& text) {
  print_line("vocabulary", "{} tokens, pad {}", text.vocab_size, text.pad_token_id);
  print_line("hidden size", "{}", text.hidden_size);
  print_line("MLP size", "{}", text.intermediate_size);
  print_layers(text);
  print_line("positions", "{}", text.max_position_embeddings);
}

void print_base(const hf::BaseConfig& config) {
  print_line("kind", "base (Gemma4ForConditionalGeneration)");
  print_text(config.text);
  if (config.text.hidden_size_per_layer_input > 0)
    print_line("per-layer input", "{} wide", config.text.hidden_size_per_layer_input);
  if (config.text.final_logit_softcapping) print_line("logit soft-cap", "{}", *config.text.final_logit_softcapping);
}

void print_drafter(const hf::DrafterConfig& config) {
  print_line("kind", "drafter (Gemma4AssistantForCausalLM)");
  print_text(config.text);
  print_line("base's hidden size", "{}", config.backbone_hidden_size);
  if (config.use_ordered_embeddings)
    print_line("centroids", "{}, {} chosen", config.num_centroids, config.centroid_intermediate_top_k);
}

void print_tensors(const hf::TensorFiles& files) {
  struct Count {
    std::int64_t tensors = 0, elements = 0;
  };
  std::map<std::string, Count> counts;
  for (const std::string& name : files.names()) {
    const hf::TensorEntry& tensor = files.info(name);
    Count& count = counts[tensor.dtype];
    ++count.tensors;
    count.elements += num_elements(tensor.shape);
  }
  for (const auto& [dtype, count] : counts)
    print_line("tensors of type " + dtype, "{} with {} elements", count.tensors, count.elements);
}

void inspect_model(const fs::path& directory) {
  const Json config = read_json(directory / "config.json");
  const bool is_drafter = config.is_object() && config.value("model_type", Json()) == "gemma4_assistant";
  const auto files = hf::TensorFiles::open(directory);
  if (is_drafter) {
    const hf::DrafterConfig drafter = hf::read_drafter_config(directory);
    model::check_shapes(files, model::tensors_of(drafter));
    print_drafter(drafter);
  } else {
    const hf::BaseConfig base = hf::read_base_config(directory);
    model::check_shapes(files, model::tensors_of(base));
    print_base(base);
  }
  print_tensors(files);
}

void print_lengths(const data::DataFile& file) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < file.samples(); ++i) lengths.push_back(file.length(i));
  std::ranges::sort(lengths);
  const auto reaches = [&](std::size_t percent) { return lengths[(lengths.size() - 1) * percent / 100]; };
  print_line("lengths", "{} shortest, {} median, {} at 90 %, {} at 99 %, {} longest", reaches(0), reaches(50),
             reaches(90), reaches(99), reaches(100));
}

void inspect_data(const fs::path& path) {
  const data::DataFile file(path);
  const data::Summary summary = file.check_all();
  print_line("kind", "data file");
  print_line("vocabulary", "{} tokens, pad {}", file.vocab_size(), file.pad_token_id());
  print_line("tokenizer", "{}", file.tokenizer().value_or("not recorded"));
  print_line("samples", "{}", summary.samples);
  print_line("tokens", "{}", summary.tokens);
  print_line("targets", "{}", summary.targets);
  print_line("mean length", "{:.1f}", summary.mean_length);
  print_lengths(file);
}

/// As text, or as ids where there is no vocabulary.
std::string shown(const std::vector<std::int64_t>& ids, const hf::Vocabulary* vocabulary) {
  if (vocabulary == nullptr) return fmt::format("{}", fmt::join(ids, " "));
  return std::regex_replace(vocabulary->text(ids), std::regex("\n"), "⏎\n");
}

/// Its runs of targets are in ⟦ ⟧, and each line break is shown.
void print_sample(const fs::path& path, std::int64_t number, const fs::path& tokenizer) {
  const data::DataFile file(path);
  if (number < 0 || number >= file.samples())
    throw UsageError("option --sample: {} has the samples 0 to {}, not {}", path.string(), file.samples() - 1, number);
  std::optional<hf::Vocabulary> vocabulary;
  if (!tokenizer.empty()) {
    file.check_tokenizer(tokenizer);
    vocabulary.emplace(tokenizer);
  }
  const data::Sample sample = file.sample(number);
  for (std::size_t begin = 0, end = 0; begin < sample.tokens.size(); begin = end) {
    while (end < sample.tokens.size() && sample.is_target[end] == sample.is_target[begin]) ++end;
    const std::vector<std::int64_t> ids(sample.tokens.begin() + begin, sample.tokens.begin() + end);
    const std::string text = shown(ids, vocabulary ? &*vocabulary : nullptr);
    std::cout << (sample.is_target[begin] != 0 ? "⟦" + text + "⟧" : text) << (vocabulary ? "" : " ");
  }
  std::cout << "\n";
}

int inspect(int argc, char** argv) {
  fs::path path, tokenizer;
  bool tensors = false;
  std::optional<std::int64_t> sample;
  po::options_description options(
      "mtp-inspect PATH: says what a checkpoint, a run, a Hugging Face directory or a data file holds, and checks it; "
      "ends with 1 where it is damaged");
  options.add_options()("path", po::value(&path)->required(), "the directory or file, with or without --path");
  options.add_options()("tensors", po::bool_switch(&tensors), "list the tensors of a checkpoint");
  options.add_options()("sample", po::value<std::int64_t>()->notifier([&](std::int64_t number) { sample = number; }),
                        "show this sample of a data file, counted from 0, its targets in ⟦ ⟧");
  options.add_options()("tokenizer", po::value(&tokenizer), "Hugging Face directory, to show text in place of ids");
  po::positional_options_description positional;
  positional.add("path", 1);
  if (!apps::parse(argc, argv, options, positional)) return 0;
  if (!fs::exists(path)) throw Error("{}: does not exist", path.string());
  if (sample) return print_sample(path, *sample, tokenizer), 0;
  if (fs::exists(path / "config.json"))
    inspect_model(path);
  else if (checkpoint::is_checkpoint(path))
    apps::inspect_checkpoint(path, tensors);
  else if (fs::is_directory(path / "checkpoints"))
    apps::inspect_run(path);
  else if (fs::is_regular_file(path))
    inspect_data(path);
  else
    throw Error(
        "{}: is neither a checkpoint, nor a run (no checkpoints in it), nor a Hugging Face directory (no config.json), "
        "nor a data file",
        path.string());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return apps::run_program([&] { return inspect(argc, argv); });
}
