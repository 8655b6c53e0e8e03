#pragma once

#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"

namespace mtp::hf {

/// Every parameter and buffer that the released files of a model hold, with fp32 parameters: what Hugging Face's
/// modules have, and a base's keys' and values' parameters of layers that share them.
/// What nothing uses comes last.
std::vector<TensorEntry> tensors_of(const BaseConfig& config);
std::vector<TensorEntry> tensors_of(const DrafterConfig& config);

/// K/V projections and norms that a layer without keys and values of its own may still have in a file.
bool is_unused_kv(const TextConfig& config, const std::string& name);

/// Throws Error that names a needed tensor which is missing or has another shape, with both shapes.
void check_shapes(const TensorFiles& files, const std::vector<TensorEntry>& needed);

enum class Role {
  trained,
  frozen,   // a parameter that is used, and never changes
  carried,  // not a parameter of this program: goes from the source to the export as it is
};

/// A tensor of the pair.
struct TensorInfo {
  std::string name;   // "base." or "drafter." and the name in the file
  std::string dtype;  // in the source, as safetensors spells it
  Shape shape;
  Role role = Role::trained;
  std::string unit;  // parameters that are gathered together; empty for carried tensors
};

/// The one table of every tensor of a pair: loading, checkpoints and export all walk it.
class TensorTable {
 public:
  /// Accounts for every tensor of the files. Throws Error that names a missing, unknown or misshapen one, and
  /// UsageError where the settings ask to train what cannot be trained.
  TensorTable(const BaseConfig& base, const TensorFiles& base_files, const DrafterConfig& drafter,
              const TensorFiles& drafter_files, const Settings& settings);

  /// Nothing is trained: for programs that only use a pair.
  void freeze();

  /// Base first; in the order in which a forward uses the units.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

 private:
  std::vector<TensorInfo> tensors_;
};

}  // namespace mtp::hf
