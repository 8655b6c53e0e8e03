#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"

namespace mtp::test {

/// The parts of a data file as they are written, so that a test can break one of them.
struct DataParts {
  std::string format = "mtp-data";
  std::int64_t version = 1, vocab_size = 100, pad_token_id = 0;
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> loss_mask;
  std::vector<std::int64_t> offsets{0};

  /// Appends a sample; every token is a target unless a mask says otherwise.
  void add(const std::vector<std::int32_t>& sample, std::vector<std::uint8_t> mask = {}) {
    mask.resize(sample.size(), mask.empty() ? 1 : 0);
    tokens.insert(tokens.end(), sample.begin(), sample.end());
    loss_mask.insert(loss_mask.end(), mask.begin(), mask.end());
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
  }
};

template <typename T>
void write_dataset(hdf5::File& file, const std::string& name, const std::vector<T>& values) {
  file.create_dataset<T>(name, {static_cast<std::int64_t>(values.size())}).write(0, std::span(values));
}

inline void write_data(const std::filesystem::path& path, const DataParts& parts) {
  hdf5::File file = hdf5::File::create(path);
  file.set_attribute("format", parts.format);
  file.set_attribute("version", parts.version);
  file.set_attribute("vocab_size", parts.vocab_size);
  file.set_attribute("pad_token_id", parts.pad_token_id);
  write_dataset(file, "tokens", parts.tokens);
  write_dataset(file, "loss_mask", parts.loss_mask);
  write_dataset(file, "offsets", parts.offsets);
  file.close();
}

}  // namespace mtp::test
