#include "mtp/model/pair.h"

#include <algorithm>
#include <set>

#include "mtp/core/error.h"
#include "mtp/core/random.h"
#include "mtp/hf/model_folder.h"

namespace mtp::model {

namespace {

hf::BaseConfig read_base(const std::filesystem::path& directory) {
  hf::check_model_folder(directory);
  return hf::read_base_config(directory);
}

hf::DrafterConfig read_fitting_drafter(const std::filesystem::path& directory, const hf::BaseConfig& base) {
  hf::check_model_folder(directory);
  hf::DrafterConfig drafter = hf::read_drafter_config(directory);
  hf::check_fit(base, drafter);
  return drafter;
}

/// A part that is to be trained is in memory.
Parts with_trained(Parts parts, const Settings::Freeze& freeze, const hf::BaseConfig& base) {
  const bool trains_vision = !freeze.vision || !freeze.vision_projector;
  if (trains_vision && !base.takes_images())
    throw UsageError("setting {}: {} has no vision_config: there is nothing of it to train",
                     freeze.vision ? "freeze.vision_projector" : "freeze.vision", base.file);
  if (trains_vision && !freeze.base) parts.vision = true;
  const bool trains_audio = !freeze.audio || !freeze.audio_projector;
  if (trains_audio && !base.takes_sound())
    throw UsageError("setting {}: {} takes no sound: there is nothing of it to train",
                     freeze.audio ? "freeze.audio_projector" : "freeze.audio", base.file);
  if (trains_audio && !freeze.base) parts.audio = true;
  return parts;
}

const std::string base_prefix = "base.";

std::string name_in_file(const std::string& full_name) { return full_name.substr(full_name.find('.') + 1); }

std::optional<hf::PeftAdapter> open_adapter(const Settings& settings) {
  const std::filesystem::path& directory = settings.model.base_adapter;
  if (directory.empty()) return std::nullopt;
  hf::PeftAdapter adapter = hf::PeftAdapter::open(directory);
  const Settings::Lora& lora = settings.lora;
  if (adapter.rank != lora.rank)
    throw UsageError("setting lora.rank: the adapter in {} has rank {}, the run {}", directory.string(), adapter.rank,
                     lora.rank);
  const double scale = adapter.alpha / static_cast<double>(adapter.rank);
  if (scale != lora.scale())
    throw UsageError("setting lora.alpha: the adapter in {} has alpha {} and rank {}, it must be {}",
                     directory.string(), adapter.alpha, adapter.rank, adapter.alpha);
  return adapter;
}

}  // namespace

Pair::Pair(const Settings& settings, Parts parts)
    : Pair(settings, parts, settings.model.base, settings.model.drafter, hf::TensorFiles::open) {}

Pair::Pair(const Settings& settings, Parts parts, std::filesystem::path base_folder,
           std::filesystem::path drafter_folder, const OpenFiles& open_files)
    : base_directory(std::move(base_folder)),
      drafter_directory(std::move(drafter_folder)),
      base_config(read_base(base_directory)),
      drafter_config(read_fitting_drafter(drafter_directory, base_config)),
      base_files(open_files(base_directory)),
      drafter_files(open_files(drafter_directory)),
      base_adapter(open_adapter(settings)),
      base(base_config, settings.freeze, with_trained(parts, settings.freeze, base_config), settings.lora),
      drafter(drafter_config, settings.drafter.rounds, settings.lora),
      table({"base", base_config.text, base_files, base.tensors()},
            {"drafter", drafter_config.text, drafter_files, drafter.tensors()}),
      seed_(settings.run.seed) {
  check_adapters(settings);
  base.read_buffers(base_files);
  drafter.read_buffers(drafter_files);
}

void Pair::check_adapters(const Settings& settings) const {
  std::vector<std::string> adapters;  // of the base
  std::set<std::string> layers;       // of both models, the last parts of their names
  for (const TensorInfo& tensor : table.tensors()) {
    if (!tensor.start) continue;
    if (tensor.name.starts_with(base_prefix)) adapters.push_back(name_in_file(tensor.name));
    const std::string layer = tensor.name.substr(0, tensor.name.find(".lora_"));
    layers.insert(layer.substr(layer.rfind('.') + 1));
  }
  for (const std::string& target : settings.lora.targets)
    if (settings.lora.rank > 0 && !layers.contains(target))
      throw UsageError("setting lora.targets: no linear layer of what has adapters is called {}", target);
  if (!base_adapter) return;
  const hf::TensorFiles& files = base_adapter->files;
  for (const std::string& name : adapters) {
    const hf::TensorEntry& found = files.info(base_adapter->name_of(name));
    if (const Shape& needed = table.find(base_prefix + name).shape; found.shape != needed)
      throw Error("{}: tensor {} has shape {}, the base needs {}", files.where(), found.name,
                  mtp::to_string(found.shape), mtp::to_string(needed));
  }
  if (files.names().size() != adapters.size())
    throw UsageError("setting lora.targets: {} has {} tensors, the run's adapters of the base are {}", files.where(),
                     files.names().size(), adapters.size());
}

void Pair::read(const std::string& full_name, std::int64_t begin, std::span<float> values) const {
  const TensorInfo& tensor = table.find(full_name);
  if (tensor.start)
    read_adapter(tensor, begin, values);
  else
    (full_name.starts_with(base_prefix) ? base_files : drafter_files).read(name_in_file(full_name), begin, values);
}

void Pair::read_adapter(const TensorInfo& tensor, std::int64_t begin, std::span<float> values) const {
  if (base_adapter && tensor.name.starts_with(base_prefix)) {
    base_adapter->files.read(base_adapter->name_of(name_in_file(tensor.name)), begin, values);
    return;
  }
  // Each draws from a stream of its own, numbered in the order of the table, after those of a random pair.
  constexpr std::uint64_t first_stream = std::uint64_t{1} << 32;
  const auto before = std::span(table.tensors().data(), &tensor);
  const auto stream = std::ranges::count_if(before, [](const TensorInfo& other) { return other.start.has_value(); });
  const Random random(seed_, Purpose::initialisation, first_stream + static_cast<std::uint64_t>(stream));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = tensor.start->kind == Start::Kind::uniform
                    ? static_cast<float>(tensor.start->value * (2 * random.uniform(begin + i) - 1))
                    : tensor.start->value;
}

std::vector<TensorRecord> tensors_of(const hf::BaseConfig& config) {
  return in_file_order(BaseModel(config, {}, {.vision = true, .audio = true}).tensors());
}

std::vector<TensorRecord> tensors_of(const hf::DrafterConfig& config) {
  return in_file_order(Drafter(config, Settings().drafter.rounds).tensors());
}

}  // namespace mtp::model
