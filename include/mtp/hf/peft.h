#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/core/json.h"
#include "mtp/hf/safetensors.h"

namespace mtp::hf {

/// A low-rank adapter as PEFT saves it: DIR/adapter_config.json and DIR/adapter_model.safetensors.
/// Source: LoraConfig and save_pretrained of PEFT 0.21.
struct PeftAdapter {
  /// Throws Error for a directory that is none, and for what this program does not do: other kinds of adapters, ranks
  /// that differ between layers, biases.
  static PeftAdapter open(const std::filesystem::path& directory);

  /// The name here of a parameter that a model's file would hold as "….lora_A.weight": of the adapter of the whole
  /// model, or of its text decoder alone. Throws Error where there is none.
  std::string name_of(const std::string& name_in_model) const;

  std::int64_t rank = 0;
  double alpha = 0;
  TensorFiles files;
};

inline constexpr const char* peft_config_file = "adapter_config.json";
inline constexpr const char* peft_weights_file = "adapter_model.safetensors";

/// The name of the same parameter in a file that PEFT loads on the model.
std::string peft_name(const std::string& name_in_model);

/// adapter_config.json. `modules`: the linear layers that have adapters, by their names in the model; `base`: where the
/// model is.
Json peft_config(std::int64_t rank, double alpha, const std::vector<std::string>& modules, const std::string& base);

}  // namespace mtp::hf
