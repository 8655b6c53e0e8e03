#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"

namespace mtp::checkpoint {

struct ExportOptions {
  std::optional<ComputeType> dtype = {};         // of all parameters; without one, each has its source's
  std::uint64_t max_file_bytes = 5'000'000'000;  // of data in a safetensors file, as Hugging Face splits
  bool force = false;                            // replace an earlier export
  bool adapter = false;                          // the base's adapter by itself, in place of the base
};

/// Throws Error where an export cannot be written to `out`: something is there, and it may not be replaced or is no
/// export.
void check_export_target(const std::filesystem::path& out, bool force);

/// Writes OUT/base/model/consolidated and OUT/drafter/model/consolidated from a checkpoint, for Hugging Face's
/// `from_pretrained`: parameters, with adapters merged into them, rounded once from fp32, everything else as it was in
/// the source. With `adapter`, OUT/base/adapter is a PEFT directory for the source base, in fp32 unless asked. Written
/// under a temporary name, put on the disk and renamed. Collective: each rank writes its part of the bytes, which do
/// not depend on the number of ranks, a piece at a time. Throws Error where `out` cannot be written or the checkpoint
/// is not whole, UsageError where it has no adapter to write.
void export_hf(const std::filesystem::path& checkpoint, const std::filesystem::path& out, const ExportOptions& options,
               const parallel::Communicator& communicator);

}  // namespace mtp::checkpoint
