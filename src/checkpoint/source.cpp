#include "mtp/checkpoint/source.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/core/json.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t most_in_memory = std::uint64_t{1} << 24;  // bytes of a tensor that is copied

/// Of this program, not of the model.
constexpr const char* table_name = "tensors.json";
constexpr const char* untrained_name = "carried.safetensors";

void append(const hf::TensorFiles& files, const hf::TensorEntry& tensor, hf::SafetensorsWriter& writer) {
  const std::uint64_t bytes = files.bytes(tensor.name).size();
  for (std::uint64_t begin = 0; begin < bytes; begin += most_in_memory) {
    std::vector<std::byte> some(std::min(most_in_memory, bytes - begin));
    files.copy_bytes(tensor.name, begin, some);
    writer.append(some);
  }
}

void store_model(const std::string& model, const fs::path& directory, const hf::TensorFiles& files,
                 const model::TensorTable& table, const fs::path& to) {
  fs::create_directories(to);
  for (const fs::path& file : side_files(directory)) {
    fs::create_directories((to / file).parent_path());
    fs::copy_file(directory / file, to / file, fs::copy_options::overwrite_existing);
  }

  Json tensors = Json::array();
  std::vector<hf::TensorEntry> untrained;
  for (const model::TensorInfo& tensor : table.tensors()) {
    if (!tensor.name.starts_with(model + ".") || tensor.start) continue;  // an adapter is not of the source
    const std::string name = tensor.name.substr(model.size() + 1);
    const bool is_parameter = tensor.role != model::Role::carried;
    tensors.push_back({{"name", name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"carried", !is_parameter}});
    if (tensor.role != model::Role::trained) untrained.push_back({name, tensor.dtype, tensor.shape});
  }
  write_json(to / table_name, tensors);
  hf::SafetensorsWriter writer(to / untrained_name, untrained);
  for (const hf::TensorEntry& tensor : untrained) append(files, tensor, writer);
  writer.finish();
}

/// A frozen parameter, in its source's type.
void append(const State& state, const std::string& name, const hf::TensorEntry& tensor, hf::SafetensorsWriter& writer) {
  constexpr auto most = static_cast<std::int64_t>(most_in_memory / sizeof(float));
  const std::int64_t elements = num_elements(tensor.shape);
  for (std::int64_t begin = 0; begin < elements; begin += most) {
    std::vector<float> values(std::min(most, elements - begin));
    state.read(name, begin, values);
    writer.append(hf::convert(values, tensor.dtype));
  }
}

/// In version 2, frozen parameters were tensors of the state: moves them to where later checkpoints look for them.
void add_frozen(const State& state, const std::string& model, const fs::path& to) {
  const hf::TensorFiles held = open_untrained(to);
  const auto in_state = [&](const char* kind, const std::string& name) { return state.has(kind + model + "." + name); };
  std::vector<hf::TensorEntry> untrained;
  for (const auto& [tensor, unused] : read_source_tensors(to))
    if (held.has(tensor.name) || (in_state("parameters/", tensor.name) && !in_state("exp_avg/", tensor.name)))
      untrained.push_back(tensor);
  if (untrained.size() == held.names().size()) return;
  hf::SafetensorsWriter writer(to / untrained_name, untrained);
  for (const hf::TensorEntry& tensor : untrained)
    if (held.has(tensor.name))
      append(held, tensor, writer);
    else
      append(state, "parameters/" + model + "." + tensor.name, tensor, writer);
  writer.finish();
}

/// What Hugging Face and the engines read of a model beside its weights. Whatever else lies in the folder (a README,
/// other weights, a trainer's states) does not describe the exported model.
constexpr std::array needed_files = {"config.json",
                                     "generation_config.json",
                                     "tokenizer.json",
                                     "tokenizer.model",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "vocab.json",
                                     "merges.txt",
                                     "chat_template.jinja",
                                     "chat_template.json",
                                     "processor_config.json",
                                     "preprocessor_config.json",
                                     "video_preprocessor_config.json"};
constexpr const char* more_templates = "additional_chat_templates";  // where Hugging Face keeps those with a name

/// What was trained is known, without its values.
hf::TensorFiles open_tensors(const fs::path& model_source) {
  const hf::TensorFiles untrained = open_untrained(model_source);
  std::vector<hf::TensorEntry> without_values;
  for (const SourceTensor& tensor : read_source_tensors(model_source))
    if (!untrained.has(tensor.entry.name)) without_values.push_back(tensor.entry);
  return hf::TensorFiles::open_file(model_source / untrained_name, without_values);
}

}  // namespace

hf::TensorFiles open_untrained(const fs::path& model_source) {
  return hf::TensorFiles::open_file(model_source / untrained_name);
}

std::vector<fs::path> side_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const char* name : needed_files)
    if (fs::is_regular_file(directory / name)) files.push_back(name);
  if (fs::is_directory(directory / more_templates))
    for (const fs::directory_entry& entry : fs::directory_iterator(directory / more_templates))
      if (entry.is_regular_file() && entry.path().extension() == ".jinja")
        files.push_back(fs::path(more_templates) / entry.path().filename());
  std::ranges::sort(files);
  return files;
}

Manifest store_source(const model::Pair& pair, const fs::path& run_dir) {
  fs::remove_all(run_dir / "source");
  store_model("base", pair.base_directory, pair.base_files, pair.table, run_dir / "source" / "base");
  store_model("drafter", pair.drafter_directory, pair.drafter_files, pair.table, run_dir / "source" / "drafter");
  Manifest manifest;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(run_dir / "source"))
    if (entry.is_regular_file()) manifest.add_file(run_dir, entry.path());
  return manifest;
}

Manifest share_source(const State& state, const fs::path& run_dir) {
  fs::remove_all(run_dir / "source");
  link_files(state.directory() / "source", run_dir / "source");
  Manifest manifest;
  for (const auto& [path, file] : state.manifest().files)
    if (path.starts_with("source/")) manifest.files[path] = file;
  for (const std::string model : {"base", "drafter"}) {
    const fs::path source = run_dir / "source" / model;
    add_frozen(state, model, source);
    manifest.add_file(run_dir, source / untrained_name);
  }
  return manifest;
}

void link_files(const fs::path& from, const fs::path& to) {
  std::error_code no_links;
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::create_hard_links, no_links);
  if (no_links) fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
}

std::vector<SourceTensor> read_source_tensors(const fs::path& model_source) {
  const fs::path path = model_source / table_name;
  std::vector<SourceTensor> tensors;
  try {
    for (const Json& tensor : read_json(path))
      tensors.push_back(
          {{tensor.at("name"), tensor.at("dtype"), tensor.at("shape").get<Shape>()}, tensor.at("carried")});
  } catch (const Json::exception& error) {
    throw Error("{}: is no list of tensors: {}", path.string(), error.what());
  }
  std::ranges::sort(tensors, {}, [](const SourceTensor& tensor) { return tensor.entry.name; });
  return tensors;
}

model::Pair open_source(const Settings& settings, model::Parts parts, const fs::path& source) {
  return model::Pair(settings, parts, source / "base", source / "drafter", open_tensors);
}

}  // namespace mtp::checkpoint
