#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/hf/peft.h"
#include "mtp/hf/safetensors.h"
#include "mtp/model/base_model.h"
#include "mtp/model/drafter.h"
#include "mtp/model/tensor_table.h"

namespace mtp::model {

/// A base and its drafter: their Hugging Face directories, the two models, and the table of all their tensors.
struct Pair {
  /// Opens and checks both, and that they fit. `parts`: those that are needed beside what is to be trained. Throws
  /// Error or UsageError in one line.
  explicit Pair(const Settings& settings, Parts parts = {});
  /// From directories whose tensors `open_files` finds.
  using OpenFiles = std::function<hf::TensorFiles(const std::filesystem::path& directory)>;
  Pair(const Settings& settings, Parts parts, std::filesystem::path base_directory,
       std::filesystem::path drafter_directory, const OpenFiles& open_files);

  /// What a parameter of the table begins with, from its element `begin` on: its values in the files, in
  /// `settings.model.base_adapter`, or those that an adapter is made with.
  void read(const std::string& full_name, std::int64_t begin, std::span<float> values) const;

  std::filesystem::path base_directory, drafter_directory;
  hf::BaseConfig base_config;
  hf::DrafterConfig drafter_config;
  hf::TensorFiles base_files, drafter_files;
  std::optional<hf::PeftAdapter> base_adapter;
  BaseModel base;
  Drafter drafter;
  TensorTable table;

 private:
  void check_adapters(const Settings& settings) const;
  void read_adapter(const TensorInfo& tensor, std::int64_t begin, std::span<float> values) const;

  std::uint64_t seed_;  // of adapters
};

/// Every tensor that the released files of a model hold, in the order of a new file.
std::vector<TensorRecord> tensors_of(const hf::BaseConfig& config);
std::vector<TensorRecord> tensors_of(const hf::DrafterConfig& config);

}  // namespace mtp::model
