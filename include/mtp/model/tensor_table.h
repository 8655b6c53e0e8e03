#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

/// A tensor of the pair's files.
struct TensorInfo {
  std::string name;   // "base." or "drafter." and the name in the file
  std::string dtype;  // in the source, as safetensors spells it
  Shape shape;
  Role role = Role::trained;
  std::string unit;                 // parameters that are gathered together; empty for carried tensors
  Parameter parameter;              // of the part that declared it; none for carried tensors
  std::optional<Start> start = {};  // of an adapter's, which the files do not hold
  bool is_by_expert = false;        // see TensorRecord
};

/// A model's part in the table.
struct TableSource {
  std::string model;  // "base" or "drafter"
  const hf::TextConfig& config;
  const hf::TensorFiles& files;
  const std::vector<TensorRecord>& records;
};

/// The one table of every tensor of a pair: loading, checkpoints and export all walk it. It brings together what the
/// models' parts declare and what the files hold.
class TensorTable {
 public:
  /// Accounts for every tensor of the files. Throws Error that names a missing, unknown or misshapen one.
  TensorTable(const TableSource& base, const TableSource& drafter);

  /// Nothing is trained: for programs that only use a pair.
  void freeze();

  /// Base first; in the order in which a forward uses the units.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const TensorInfo& find(const std::string& name) const;

 private:
  std::vector<TensorInfo> tensors_;
};

}  // namespace mtp::model
