#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"
#include "mtp/hf/tensor_table.h"

namespace mtp::hf {

/// A base and its drafter as Hugging Face directories: configurations, files, and the table of their tensors.
struct Pair {
  /// Opens and checks both, and that they fit. Throws Error or UsageError in one line.
  explicit Pair(const Settings& settings);
  /// From directories whose tensors `open_files` finds.
  using OpenFiles = std::function<TensorFiles(const std::filesystem::path& directory)>;
  Pair(const Settings& settings, std::filesystem::path base, std::filesystem::path drafter,
       const OpenFiles& open_files);

  /// The files that hold a tensor of the table, and its name there.
  std::pair<const TensorFiles*, std::string> source_of(const std::string& full_name) const;

  std::filesystem::path base_directory, drafter_directory;
  BaseConfig base_config;
  DrafterConfig drafter_config;
  TensorFiles base_files, drafter_files;
  TensorTable table;
  std::vector<float> base_layer_scalars, drafter_layer_scalars;  // the buffer layer_scalar of each layer
  std::vector<std::int64_t> token_ordering;                      // [V], a permutation; empty without centroids
};

}  // namespace mtp::hf
