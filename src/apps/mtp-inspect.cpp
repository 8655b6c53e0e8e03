// mtp-inspect PATH: says what a checkpoint, run, Hugging Face directory or data file holds, and verifies it.

#include <algorithm>
#include <boost/program_options.hpp>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "inspect_checkpoint.h"
#include "inspect_data.h"
#include "mtp/checkpoint/directory.h"
#include "mtp/core/error.h"
#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"
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

void print_vision(const hf::VisionConfig& vision) {
  print_line("vision tower", "{} layers, {} wide; patches of {} × {} pixels, {} × {} of them a token",
             vision.num_hidden_layers, vision.hidden_size, vision.patch_size, vision.patch_size,
             vision.pooling_kernel_size, vision.pooling_kernel_size);
}

void print_base(const hf::BaseConfig& config) {
  print_line("kind", "base ({})", config.model_type);
  print_text(config.text);
  if (config.text.hidden_size_per_layer_input > 0)
    print_line("per-layer input", "{} wide", config.text.hidden_size_per_layer_input);
  if (config.text.final_logit_softcapping) print_line("logit soft-cap", "{}", *config.text.final_logit_softcapping);
  if (config.vision) print_vision(*config.vision);
  if (const auto& embedder = config.patch_embedder)
    print_line("patch embedding", "{} wide; patches of {} × {} pixels, each a token", embedder->embed_dim,
               embedder->patch_size, embedder->patch_size);
  if (const auto& audio = config.audio)
    print_line("audio tower", "{} layers, {} wide; frames of {} numbers, {} of them a token", audio->num_hidden_layers,
               audio->hidden_size, audio->frame_size(), hf::AudioConfig::frames_per_token);
  if (const auto& frames = config.frame_projector)
    print_line("sound", "frames of {} samples, each a token", frames->frame_size);
}

void print_drafter(const hf::DrafterConfig& config) {
  print_line("kind", "drafter ({})", config.model_type);
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
  const bool is_drafter = hf::is_drafter(read_json(directory / "config.json"));
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

int inspect(int argc, char** argv) {
  fs::path path, tokenizer, images;
  bool tensors = false;
  std::optional<std::int64_t> sample;
  po::options_description options(
      "mtp-inspect PATH: says what a checkpoint, a run, a Hugging Face directory or a data file holds, and checks it; "
      "ends with 1 where it is damaged");
  options.add_options()("path", po::value(&path)->required(), "the directory or file, with or without --path");
  options.add_options()("tensors", po::bool_switch(&tensors), "list the tensors of a checkpoint");
  options.add_options()(
      "sample", po::value<std::int64_t>()->notifier([&](std::int64_t number) { sample = number; }),
      "show this sample of a data file, counted from 0, its targets in ⟦ ⟧, and write its images as PNG");
  options.add_options()("tokenizer", po::value(&tokenizer), "Hugging Face directory, to show text in place of ids");
  options.add_options()("images", po::value(&images)->default_value("."), "folder that --sample writes images to");
  po::positional_options_description positional;
  positional.add("path", 1);
  if (!apps::parse(argc, argv, options, positional)) return 0;
  if (!fs::exists(path)) throw Error("{}: does not exist", path.string());
  if (sample) return apps::print_sample(path, *sample, tokenizer, images), 0;
  if (fs::exists(path / "config.json"))
    inspect_model(path);
  else if (checkpoint::is_checkpoint(path))
    apps::inspect_checkpoint(path, tensors);
  else if (fs::is_directory(path / "checkpoints"))
    apps::inspect_run(path);
  else if (fs::is_regular_file(path))
    apps::inspect_data(path);
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
