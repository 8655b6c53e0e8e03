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

}  // namespace

Pair::Pair(const Settings& settings)
    : Pair(settings, settings.model.base, settings.model.drafter, hf::TensorFiles::open) {}

Pair::Pair(const Settings& settings, std::filesystem::path base_folder, std::filesystem::path drafter_folder,
           const OpenFiles& open_files)
    : base_directory(std::move(base_folder)),
      drafter_directory(std::move(drafter_folder)),
      base_config(read_base(base_directory)),
      drafter_config(read_fitting_drafter(drafter_directory, base_config)),
      base_files(open_files(base_directory)),
      drafter_files(open_files(drafter_directory)),
      base(base_config, settings.freeze),
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
  return in_file_order(BaseModel(config, {}).tensors());
}

std::vector<TensorRecord> tensors_of(const hf::DrafterConfig& config) {
  return in_file_order(Drafter(config, Settings().drafter.rounds).tensors());
}

}  // namespace mtp::model
