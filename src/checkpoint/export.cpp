#include "mtp/checkpoint/export.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/checkpoint/source.h"
#include "mtp/checkpoint/state.h"
#include "mtp/core/error.h"
#include "mtp/core/file.h"
#include "mtp/core/json.h"
#include "mtp/core/progress.h"
#include "mtp/hf/config.h"
#include "mtp/hf/model_files.h"
#include "mtp/hf/peft.h"
#include "mtp/hf/safetensors.h"
#include "mtp/model/pair.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

constexpr const char* model_folder = "model/consolidated";  // in OUT/base and OUT/drafter
constexpr const char* adapter_folder = "adapter";           // in OUT/base

/// The whole rows of a tensor that are written at once.
struct Piece {
  std::int64_t first_row = 0, rows = 0;
};

std::int64_t rows_of(const hf::TensorEntry& tensor) { return tensor.shape.empty() ? 1 : tensor.shape[0]; }

std::int64_t row_elements(const hf::TensorEntry& tensor) {
  return num_elements(tensor.shape) / std::max<std::int64_t>(1, rows_of(tensor));
}

std::vector<Piece> pieces_of(const hf::TensorEntry& tensor) {
  constexpr std::int64_t most = std::int64_t{1} << 20;  // elements in memory, but for one row that has more
  if (num_elements(tensor.shape) == 0) return {};
  const std::int64_t rows = rows_of(tensor), step = std::max<std::int64_t>(1, most / row_elements(tensor));
  std::vector<Piece> pieces;
  for (std::int64_t row = 0; row < rows; row += step) pieces.push_back({row, std::min(step, rows - row)});
  return pieces;
}

Settings settings_of(const State& state) { return resumed_settings({}, saved_run(state)); }

/// The tensors of a model in a checkpoint, verified as they are read.
class StoredModel {
 public:
  StoredModel(const State& state, std::string model)
      : model_(std::move(model)),
        state_(state),
        adapter_scale_(static_cast<float>(settings_of(state).lora.scale())),
        source_(state.directory() / "source" / model_),
        tensors_(read_source_tensors(source_)),
        untrained_(open_untrained(source_)) {}

  /// The model's source directory, without its weights.
  const fs::path& source() const { return source_; }

  /// What an export has, in the order of the names.
  std::vector<hf::TensorEntry> exported(const std::optional<ComputeType>& dtype) const {
    std::vector<hf::TensorEntry> entries;
    for (const SourceTensor& tensor : tensors_) {
      entries.push_back(tensor.entry);
      if (dtype && !tensor.carried) entries.back().dtype = *dtype == ComputeType::bf16 ? "BF16" : "F32";
    }
    return entries;
  }

  /// Bytes of a tensor in the element type that it is to have, with its layer's adapter merged into it.
  std::vector<std::byte> read(const hf::TensorEntry& tensor, const Piece& piece) const {
    const bool is_untrained = untrained_.has(tensor.name), is_adapted = state_.has(adapter_of(tensor, "lora_A"));
    if (is_untrained && !is_adapted && untrained_.info(tensor.name).dtype == tensor.dtype) {
      const std::size_t row_bytes = row_elements(tensor) * hf::size_of(tensor.dtype);
      std::vector<std::byte> bytes(piece.rows * row_bytes);
      untrained_.copy_bytes(tensor.name, piece.first_row * row_bytes, bytes);
      return bytes;
    }
    const std::int64_t begin = piece.first_row * row_elements(tensor);
    std::vector<float> values(piece.rows * row_elements(tensor));
    if (is_untrained)
      untrained_.read(tensor.name, begin, values);
    else
      state_.read("parameters/" + model_ + "." + tensor.name, begin, values);
    if (is_adapted) add_adapter(tensor, piece, values);
    return hf::convert(values, tensor.dtype);
  }

 private:
  /// The name in the state of a part of what would be the tensor's adapter.
  std::string adapter_of(const hf::TensorEntry& tensor, const std::string& part) const {
    const std::string layer = tensor.name.substr(0, tensor.name.rfind('.'));
    return "parameters/" + model_ + "." + layer + "." + part + ".weight";
  }

  /// weights += scale · b a, of the rows of a piece.
  void add_adapter(const hf::TensorEntry& tensor, const Piece& piece, std::span<float> weights) const {
    const std::string name_a = adapter_of(tensor, "lora_A"), name_b = adapter_of(tensor, "lora_B");
    const std::int64_t rank = state_.shape(name_a)[0], in = row_elements(tensor);
    std::vector<float> a(rank * in), b(piece.rows * rank), sum(in);
    state_.read(name_a, 0, a);
    state_.read(name_b, piece.first_row * rank, b);
    for (std::int64_t row = 0; row < piece.rows; ++row) {
      std::ranges::fill(sum, 0.0f);
      for (std::int64_t k = 0; k < rank; ++k)
        for (std::int64_t i = 0; i < in; ++i) sum[i] += b[row * rank + k] * a[k * in + i];
      for (std::int64_t i = 0; i < in; ++i) weights[row * in + i] += adapter_scale_ * sum[i];
    }
  }

  std::string model_;
  const State& state_;
  float adapter_scale_;
  fs::path source_;
  std::vector<SourceTensor> tensors_;
  hf::TensorFiles untrained_;
};

/// Engines before 2026-09 ask a base for keys' and values' parameters even of layers that share them.
void say_what_is_missing(const State& state) {
  const fs::path source = state.directory() / "source" / "base";
  const std::vector<SourceTensor> held = read_source_tensors(source);
  const auto is_held = [&](const model::TensorRecord& tensor) {
    return std::ranges::any_of(held, [&](const SourceTensor& other) { return other.entry.name == tensor.name; });
  };
  const auto all = model::tensors_of(hf::read_base_config(source));
  if (!std::ranges::all_of(all, is_held))
    spdlog::info(
        "the base came without k_proj, v_proj and k_norm of the layers that share keys and values; its export "
        "has none either, and vLLM before 0.30 refuses it");
}

/// A model and the folder that its export is written to.
class ModelExport {
 public:
  ModelExport(const State& state, const std::string& model, const fs::path& out, const ExportOptions& options)
      : stored_(state, model),
        folder_(out / model / model_folder),
        dtype_(options.dtype),
        files_(hf::split_into_files(stored_.exported(dtype_), options.max_file_bytes)) {}

  std::uint64_t bytes() const {
    std::uint64_t sum = 0;
    for (const hf::ModelFile& file : files_) sum += hf::data_offsets(file.tensors).back();
    return sum;
  }

  /// Everything but the tensors' bytes.
  void prepare() const {
    fs::create_directories(folder_);
    for (const fs::path& file : side_files(stored_.source())) copy_side_file(file);
    if (files_.size() > 1) write_json(folder_ / "model.safetensors.index.json", hf::index_of(files_));
    for (const hf::ModelFile& file : files_) hf::SafetensorsFile::create(folder_ / file.name, file.tensors);
  }

  /// Writes the pieces that begin at a byte of which `is_ours`, counted over all files' data.
  void write(const std::function<bool(std::uint64_t)>& is_ours) const {
    Progress progress("writing " + folder_.string(), static_cast<std::int64_t>(bytes()), "bytes");
    std::uint64_t before = 0;  // bytes of the files before
    for (const hf::ModelFile& file : files_) {
      hf::SafetensorsFile out(folder_ / file.name, file.tensors);
      const std::vector<std::uint64_t> offsets = hf::data_offsets(file.tensors);
      for (std::size_t i = 0; i < file.tensors.size(); ++i) {
        const hf::TensorEntry& tensor = file.tensors[i];
        for (const Piece& piece : pieces_of(tensor)) {
          const std::uint64_t position =
              offsets[i] +
              static_cast<std::uint64_t>(piece.first_row * row_elements(tensor)) * hf::size_of(tensor.dtype);
          if (is_ours(before + position)) out.write(position, stored_.read(tensor, piece));
          progress.add(piece.rows * row_elements(tensor) * static_cast<std::int64_t>(hf::size_of(tensor.dtype)));
        }
      }
      out.sync();
      before += offsets.back();
    }
  }

 private:
  void copy_side_file(const fs::path& file) const {
    fs::create_directories((folder_ / file).parent_path());
    if (file == "config.json" && dtype_) {
      Json config = read_json(stored_.source() / file);
      hf::set_dtype(config, *dtype_ == ComputeType::bf16 ? "bfloat16" : "float32");
      write_json(folder_ / file, config);
    } else {
      fs::copy_file(stored_.source() / file, folder_ / file);
    }
  }

  StoredModel stored_;
  fs::path folder_;
  std::optional<ComputeType> dtype_;
  std::vector<hf::ModelFile> files_;
};

fs::path without_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

/// The base's adapter as PEFT has it.
class AdapterExport {
 public:
  explicit AdapterExport(const State& state) : state_(state), settings_(settings_of(state)) {
    const std::string prefix = "parameters/base.";
    for (const auto& [name, unused] : state.manifest().tensors) {
      const std::size_t part = name.find(".lora_");
      if (!name.starts_with(prefix) || part == std::string::npos) continue;
      tensors_.push_back(name);
      if (name.substr(part).starts_with(".lora_A"))
        modules_.push_back(name.substr(prefix.size(), part - prefix.size()));
    }
    if (tensors_.empty()) throw UsageError("option --adapter: {} has no adapter", state.directory().string());
  }

  void write(const fs::path& folder, ComputeType dtype) const {
    fs::create_directories(folder);
    const auto rank = settings_.lora.rank;
    write_json(folder / hf::peft_config_file, hf::peft_config(rank, settings_.lora.scale() * static_cast<double>(rank),
                                                              modules_, settings_.model.base.string()));
    std::vector<hf::TensorEntry> entries;
    for (const std::string& name : tensors_)
      entries.push_back({hf::peft_name(name.substr(name.find('.') + 1)), dtype == ComputeType::bf16 ? "BF16" : "F32",
                         state_.shape(name)});
    hf::SafetensorsWriter writer(folder / hf::peft_weights_file, entries);
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      std::vector<float> values(num_elements(entries[i].shape));
      state_.read(tensors_[i], 0, values);
      writer.append(hf::convert(values, entries[i].dtype));
    }
    writer.finish();
  }

 private:
  const State& state_;
  Settings settings_;
  std::vector<std::string> tensors_, modules_;  // in the state; in the model
};

bool is_export(const fs::path& folder) {
  return (fs::exists(folder / "base" / model_folder / "config.json") ||
          fs::exists(folder / "base" / adapter_folder / hf::peft_config_file)) &&
         fs::exists(folder / "drafter" / model_folder / "config.json");
}

/// Gives a finished export its name.
void publish(const fs::path& partial, const fs::path& target, bool force) {
  sync_folder_to_disk(partial);
  check_export_target(target, force);  // another job may have made it in the meantime
  if (fs::exists(target))
    replace_folder(partial, target);
  else
    fs::rename(partial, target);
  sync_to_disk(fs::absolute(target).parent_path());
}

}  // namespace

void check_export_target(const fs::path& out, bool force) {
  const fs::path target = without_slash(out);
  if (!fs::exists(target)) return;
  if (!force) throw Error("{}: already exists; choose another --out, or --force to replace it", target.string());
  if (!is_export(target))
    throw Error("{}: is no export of this program, so it is not replaced; choose another --out or move it away",
                target.string());
}

void export_hf(const fs::path& checkpoint, const fs::path& out, const ExportOptions& options,
               const parallel::Communicator& communicator) {
  const parallel::LongerWait longer_wait(communicator);
  const fs::path target = without_slash(out);
  fs::path partial = target;
  partial += ".partial";
  std::vector<std::unique_ptr<ModelExport>> models;
  std::optional<AdapterExport> adapter;
  std::uint64_t total = 0;
  parallel::agree(communicator, "the start of an export", [&] { check_export_target(target, options.force); });
  const State state = open(checkpoint, communicator);
  parallel::agree(communicator, "the opening of the source", [&] {
    if (options.adapter) adapter.emplace(state);
    for (const char* model : {"base", "drafter"}) {
      if (adapter && model == std::string("base")) continue;
      models.push_back(std::make_unique<ModelExport>(state, model, partial, options));
      total += models.back()->bytes();
    }
  });
  const auto is_ours = [&](std::uint64_t position) {
    return position * static_cast<std::uint64_t>(communicator.size()) / total ==
           static_cast<std::uint64_t>(communicator.rank());
  };
  try {
    parallel::agree(communicator, "the making of an export's files", [&] {
      if (!communicator.is_first()) return;
      fs::remove_all(partial);
      for (const auto& model : models) model->prepare();
      if (adapter) adapter->write(partial / "base" / adapter_folder, options.dtype.value_or(ComputeType::fp32));
    });
    parallel::agree(communicator, "the writing of an export", [&] {
      std::uint64_t before = 0;
      for (const auto& model : models) {
        model->write([&](std::uint64_t position) { return is_ours(before + position); });
        before += model->bytes();
      }
    });
    parallel::agree(communicator, "the end of an export", [&] {
      if (!communicator.is_first()) return;
      publish(partial, target, options.force);
      if (!adapter) say_what_is_missing(state);
    });
  } catch (...) {
    std::error_code unused;  // what was wrong is said already
    fs::remove_all(partial, unused);
    throw;
  }
}

}  // namespace mtp::checkpoint
