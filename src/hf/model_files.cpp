#include "mtp/hf/model_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace mtp::hf {

namespace {

std::uint64_t bytes_of(const TensorEntry& tensor) { return data_offsets({tensor}).back(); }

void sort_for_alignment(std::vector<TensorEntry>& tensors) {
  std::ranges::sort(tensors, [](const TensorEntry& a, const TensorEntry& b) {
    return std::tuple(size_of(b.dtype), a.name) < std::tuple(size_of(a.dtype), b.name);
  });
}

}  // namespace

std::vector<ModelFile> split_into_files(const std::vector<TensorEntry>& tensors, std::uint64_t max_bytes) {
  std::vector<ModelFile> files(1);
  std::uint64_t filled = 0;
  for (const TensorEntry& tensor : tensors) {
    const std::uint64_t bytes = bytes_of(tensor);
    if (filled + bytes > max_bytes && !files.back().tensors.empty()) {
      files.emplace_back();
      filled = 0;
    }
    files.back().tensors.push_back(tensor);
    filled += bytes;
  }
  for (std::size_t i = 0; i < files.size(); ++i) {
    files[i].name =
        files.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files.size());
    sort_for_alignment(files[i].tensors);
  }
  return files;
}

Json index_of(const std::vector<ModelFile>& files) {
  std::uint64_t total = 0;
  Json map = Json::object();
  for (const ModelFile& file : files)
    for (const TensorEntry& tensor : file.tensors) {
      total += bytes_of(tensor);
      map[tensor.name] = file.name;
    }
  return {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
}

void set_dtype(Json& config, const std::string& dtype) {
  const auto set = [&](Json& part) {
    for (const char* key : {"dtype", "torch_dtype"})
      if (part.contains(key)) part[key] = dtype;
  };
  for (auto& [key, value] : config.items())
    if (key.ends_with("_config") && value.is_object()) set(value);
  set(config);
  config["dtype"] = dtype;
}

}  // namespace mtp::hf
