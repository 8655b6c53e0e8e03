#include "mtp/hf/model_folder.h"

#include "mtp/core/error.h"

namespace mtp::hf {

namespace fs = std::filesystem;

namespace {

constexpr const char* wanted = "name the folder that has a model's config.json and safetensors files";

bool has_file_of_kind(const fs::path& directory, const std::string& extension) {
  std::error_code unreadable;  // is said when a file is read
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, unreadable))
    if (entry.path().extension() == extension) return true;
  return false;
}

void check_path(const fs::path& path) {
  std::error_code unreadable;
  const fs::file_status status = fs::status(path, unreadable);
  if (status.type() == fs::file_type::not_found)
    throw Error("{}: is no folder; download the model (hf download {} --local-dir …) and name its folder",
                path.string(), path.string());
  if (!fs::is_regular_file(status)) return;
  if (path.extension() == ".gguf")
    throw Error("{}: is a GGUF file, which cannot be trained; {}", path.string(), wanted);
  if (path.extension() == ".arrow" || path.extension() == ".parquet")
    throw Error("{}: holds data, not a model; {}", path.string(), wanted);
  throw Error("{}: is a file; {}", path.string(), wanted);
}

}  // namespace

void check_model_folder(const fs::path& directory) {
  check_path(directory);
  if (fs::exists(directory / "adapter_config.json") && !fs::exists(directory / "config.json"))
    throw Error("{}: holds an adapter, not a model; merge it into its base first (PEFT's merge_and_unload)",
                directory.string());
  if (has_file_of_kind(directory, ".safetensors") || fs::exists(directory / "model.safetensors.index.json")) return;
  if (has_file_of_kind(directory, ".bin"))
    throw Error("{}: holds weights as PyTorch's .bin only; save the model as safetensors (save_pretrained)",
                directory.string());
  if (has_file_of_kind(directory, ".gguf"))
    throw Error("{}: holds GGUF files only, which cannot be trained; {}", directory.string(), wanted);
}

}  // namespace mtp::hf
