#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/decode/sampling.h"
#include "mtp/tensor/device.h"

namespace mtp::apps {

/// Options of all programs that decode.
struct DecodeOptions {
  std::filesystem::path base = {}, drafter = {};
  std::int64_t batch = 1, max_new_tokens = 256, position_offset = 1, threads = 0;
  decode::Sampling sampling = {};
  std::string device = "auto", compute_dtype = {};

  /// Adds those of the pair, and the others. What is parsed is written here.
  void add_pair_to(boost::program_options::options_description& options);
  void add_to(boost::program_options::options_description& options);
  /// Throws UsageError where a value is out of range.
  void check() const;

  Settings settings() const;
  DType dtype_on(const Device& device) const;
};

// For options of a program's own.

void check_choice(const char* option, const std::string& value, const std::vector<std::string>& choices);
void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most);
/// Fails before the work, not after it, where an output (if its path is not empty) could not be written.
void check_output(const char* option, const std::filesystem::path& path);

}  // namespace mtp::apps
