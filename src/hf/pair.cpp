#include "mtp/hf/pair.h"

#include <algorithm>

#include "mtp/core/error.h"
#include "mtp/hf/model_folder.h"

namespace mtp::hf {

namespace {

BaseConfig read_base(const std::filesystem::path& directory) {
  check_model_folder(directory);
  return read_base_config(directory);
}

DrafterConfig read_fitting_drafter(const std::filesystem::path& directory, const BaseConfig& base) {
  check_model_folder(directory);
  DrafterConfig drafter = read_drafter_config(directory);
  check_fit(base, drafter);
  return drafter;
}

std::vector<float> layer_scalars(const TensorFiles& files, const std::string& prefix, std::int64_t layers) {
  std::vector<float> scalars;
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string name = prefix + "layers." + std::to_string(i) + ".layer_scalar";
    if (files.info(name).shape != Shape{1})
      throw Error("{}: tensor {} has shape {}, it must be [1]", files.where(), name,
                  mtp::to_string(files.info(name).shape));
    files.read(name, 0, {&scalars.emplace_back(), 1});
  }
  return scalars;
}

std::vector<std::int64_t> read_token_ordering(const TensorFiles& files, std::int64_t vocabulary) {
  const std::string name = "masked_embedding.token_ordering";
  std::vector<std::int64_t> ordering = files.read_int64(name);
  std::vector<bool> seen(static_cast<std::size_t>(vocabulary), false);
  for (const std::int64_t token : ordering)
    if (token >= 0 && token < vocabulary) seen[token] = true;
  if (static_cast<std::int64_t>(ordering.size()) != vocabulary || std::count(seen.begin(), seen.end(), false) > 0)
    throw Error("{}: tensor {} is no permutation of the {} tokens", files.where(), name, vocabulary);
  return ordering;
}

}  // namespace

Pair::Pair(const Settings& settings) : Pair(settings, settings.model.base, settings.model.drafter, TensorFiles::open) {}

Pair::Pair(const Settings& settings, std::filesystem::path base, std::filesystem::path drafter,
           const OpenFiles& open_files)
    : base_directory(std::move(base)),
      drafter_directory(std::move(drafter)),
      base_config(read_base(base_directory)),
      drafter_config(read_fitting_drafter(drafter_directory, base_config)),
      base_files(open_files(base_directory)),
      drafter_files(open_files(drafter_directory)),
      table(base_config, base_files, drafter_config, drafter_files, settings) {
  base_layer_scalars = layer_scalars(base_files, base_config.prefix, base_config.text.num_hidden_layers);
  drafter_layer_scalars = layer_scalars(drafter_files, "model.", drafter_config.text.num_hidden_layers);
  if (drafter_config.use_ordered_embeddings)
    token_ordering = read_token_ordering(drafter_files, drafter_config.text.vocab_size);
}

std::pair<const TensorFiles*, std::string> Pair::source_of(const std::string& full_name) const {
  const std::size_t dot = full_name.find('.');
  return {full_name.starts_with("base.") ? &base_files : &drafter_files, full_name.substr(dot + 1)};
}

}  // namespace mtp::hf
