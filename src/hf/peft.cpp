#include "mtp/hf/peft.h"

#include "mtp/core/error.h"

namespace mtp::hf {

namespace {

/// Whether a key of the configuration is not there, null, or as it is without what it stands for.
bool is_unused(const Json& config, const char* key, const Json& value) {
  const auto found = config.find(key);
  return found == config.end() || found->is_null() || *found == value;
}

void check_kind(const Json& config, const std::string& file) {
  if (config.value("peft_type", "") != "LORA")
    throw Error("{}: peft_type is not LORA; other adapters are not supported", file);
  const Json none = Json::object();
  for (const auto& [key, value] : {std::pair<const char*, Json>("bias", "none"),
                                   {"use_dora", false},
                                   {"use_rslora", false},
                                   {"fan_in_fan_out", false},
                                   {"rank_pattern", none},
                                   {"alpha_pattern", none},
                                   {"modules_to_save", Json::array()},
                                   {"target_parameters", Json::array()}})
    if (!is_unused(config, key, value))
      throw Error("{}: {} is {}; only plain adapters of one rank are supported", file, key, config[key].dump());
}

}  // namespace

PeftAdapter PeftAdapter::open(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / peft_config_file;
  const Json config = read_json(path);
  PeftAdapter adapter;
  try {
    check_kind(config, path.string());
    adapter.rank = config.at("r").get<std::int64_t>();
    adapter.alpha = config.at("lora_alpha").get<double>();
  } catch (const Json::exception& error) {
    throw Error("{}: is no configuration of an adapter: {}", path.string(), error.what());
  }
  adapter.files = TensorFiles::open_file(directory / peft_weights_file);
  return adapter;
}

std::string PeftAdapter::name_of(const std::string& name_in_model) const {
  std::string name = peft_name(name_in_model);
  constexpr std::string_view decoder = "language_model.";
  if (const std::size_t at = name.find(decoder); !files.has(name) && at != std::string::npos)
    if (std::string alone = name.substr(0, at) + name.substr(at + decoder.size()); files.has(alone)) return alone;
  return files.info(name).name;
}

std::string peft_name(const std::string& name_in_model) { return "base_model.model." + name_in_model; }

Json peft_config(std::int64_t rank, double alpha, const std::vector<std::string>& modules, const std::string& base) {
  return {{"peft_type", "LORA"},   {"base_model_name_or_path", base}, {"r", rank},      {"lora_alpha", alpha},
          {"lora_dropout", 0.0},   {"target_modules", modules},       {"bias", "none"}, {"task_type", nullptr},
          {"inference_mode", true}};
}

}  // namespace mtp::hf
