#include "mtp/model/pair.h"

#include <algorithm>

#include "mtp/core/error.h"
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
  if (!freeze.audio_projector && !base.takes_sound())
    throw UsageError("setting freeze.audio_projector: {} takes no sound: there is nothing of it to train", base.file);
  if (!freeze.audio_projector && !freeze.base) parts.audio = true;
  return parts;
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
      base(base_config, settings.freeze, with_trained(parts, settings.freeze, base_config)),
      drafter(drafter_config, settings.drafter.rounds),
      table({"base", base_config.text, base_files, base.tensors()},
            {"drafter", drafter_config.text, drafter_files, drafter.tensors()}) {
  base.read_buffers(base_files);
  drafter.read_buffers(drafter_files);
}

std::pair<const hf::TensorFiles*, std::string> Pair::source_of(const std::string& full_name) const {
  const std::size_t dot = full_name.find('.');
  return {full_name.starts_with("base.") ? &base_files : &drafter_files, full_name.substr(dot + 1)};
}

std::vector<TensorRecord> tensors_of(const hf::BaseConfig& config) {
  return in_file_order(BaseModel(config, {}, {.vision = true, .audio = true}).tensors());
}

std::vector<TensorRecord> tensors_of(const hf::DrafterConfig& config) {
  return in_file_order(Drafter(config, Settings().drafter.rounds).tensors());
}

}  // namespace mtp::model
