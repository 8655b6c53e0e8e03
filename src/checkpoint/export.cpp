#include "mtp/checkpoint/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/core/hdf5.h"
#include "mtp/core/json.h"
#include "mtp/hf/pair.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

/// A tensor as tensors.json keeps it.
struct Stored {
  hf::TensorEntry entry;  // under its name in the model's own file
  bool carried = false;
};

/// Everything of a model's directory but its weights: configuration, tokenizer, chat template, processor.
std::vector<fs::path> side_files(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename(), extension = entry.path().extension();
    const bool is_side_file =
        extension == ".json" || extension == ".jinja" || extension == ".model" || extension == ".txt";
    if (entry.is_regular_file() && is_side_file && !name.ends_with(".index.json")) files.push_back(entry.path());
  }
  return files;
}

void store_model(const std::string& model, const fs::path& directory, const hf::TensorFiles& files,
                 const hf::TensorTable& table, const fs::path& to) {
  fs::create_directories(to);
  for (const fs::path& file : side_files(directory))
    fs::copy_file(file, to / file.filename(), fs::copy_options::overwrite_existing);

  Json tensors = Json::array();
  std::vector<hf::TensorEntry> carried;
  for (const hf::TensorInfo& tensor : table.tensors()) {
    if (!tensor.name.starts_with(model + ".")) continue;
    const std::string name = tensor.name.substr(model.size() + 1);
    const bool is_carried = tensor.role == hf::Role::carried;
    tensors.push_back({{"name", name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"carried", is_carried}});
    if (is_carried) carried.push_back({name, tensor.dtype, tensor.shape});
  }
  write_json(to / "tensors.json", tensors);
  hf::SafetensorsWriter writer(to / "carried.safetensors", carried);
  for (const hf::TensorEntry& tensor : carried) writer.append(files.bytes(tensor.name));
  writer.finish();
}

std::vector<Stored> read_tensors(const fs::path& path) {
  std::vector<Stored> stored;
  for (const Json& tensor : read_json(path))
    stored.push_back({{tensor.at("name"), tensor.at("dtype"), tensor.at("shape").get<Shape>()}, tensor.at("carried")});
  // The order of the names, as Hugging Face writes them.
  std::sort(stored.begin(), stored.end(), [](const Stored& a, const Stored& b) { return a.entry.name < b.entry.name; });
  return stored;
}

/// A parameter's values in its source's element type, some rows at a time.
void append_rounded(const hdf5::Dataset& values, const std::string& dtype, hf::SafetensorsWriter& writer) {
  constexpr std::int64_t most = std::int64_t{1} << 24;  // elements in memory
  const std::int64_t rows = values.shape()[0], width = values.elements() / rows;
  const std::int64_t piece = std::max<std::int64_t>(1, most / width);
  for (std::int64_t row = 0; row < rows; row += piece) {
    std::vector<float> part(std::min(piece, rows - row) * width);
    values.read(row, std::span(part));
    writer.append(hf::convert(part, dtype));
  }
}

void export_model(const std::string& model, const fs::path& checkpoint, const hdf5::File& state, const fs::path& to) {
  const fs::path source = checkpoint / "source" / model;
  fs::create_directories(to);
  for (const fs::path& file : side_files(source))
    if (file.filename() != "tensors.json") fs::copy_file(file, to / file.filename());

  const std::vector<Stored> tensors = read_tensors(source / "tensors.json");
  const auto carried = hf::TensorFiles::open_file(source / "carried.safetensors");
  std::vector<hf::TensorEntry> entries;
  for (const Stored& tensor : tensors) entries.push_back(tensor.entry);
  hf::SafetensorsWriter writer(to / "model.safetensors", entries);
  for (const Stored& tensor : tensors) {
    if (tensor.carried)
      writer.append(carried.bytes(tensor.entry.name));
    else
      append_rounded(state.dataset("parameters/" + model + "." + tensor.entry.name), tensor.entry.dtype, writer);
  }
  writer.finish();
}

}  // namespace

void store_source(const hf::Pair& pair, const fs::path& run_dir) {
  fs::remove_all(run_dir / "source");
  store_model("base", pair.base_directory, pair.base_files, pair.table, run_dir / "source" / "base");
  store_model("drafter", pair.drafter_directory, pair.drafter_files, pair.table, run_dir / "source" / "drafter");
}

void export_hf(const fs::path& checkpoint, const fs::path& out) {
  if (fs::exists(out)) throw Error("{}: already exists; choose another --out or remove it", out.string());
  const hdf5::File state = hdf5::File::open(checkpoint / "state.h5");
  const fs::path target = out.has_filename() ? out : out.parent_path();  // "hf/" is "hf"
  fs::path partial = target;
  partial += ".partial";
  fs::remove_all(partial);
  for (const char* model : {"base", "drafter"})
    export_model(model, checkpoint, state, partial / model / "model" / "consolidated");
  fs::rename(partial, target);
}

}  // namespace mtp::checkpoint
