#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "mtp/hf/safetensors.h"

namespace mtp::test {

/// A tensor of a test's file; its values, where there are any, else zeros.
struct FileTensor {
  hf::TensorEntry entry;
  std::vector<float> values = {};
};

/// A safetensors file of any header, however wrong: the text as it stands, before `data_bytes` zeros.
inline void write_raw(const std::filesystem::path& path, const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header << std::string(data_bytes, '\0');
}

inline void write_tensors(const std::filesystem::path& path, const std::vector<FileTensor>& tensors) {
  std::vector<hf::TensorEntry> entries;
  for (const FileTensor& tensor : tensors) entries.push_back(tensor.entry);
  hf::SafetensorsWriter writer(path, entries);
  for (const auto& [entry, values] : tensors)
    if (values.empty())
      writer.append(std::vector<std::byte>(num_elements(entry.shape) * hf::size_of(entry.dtype)));
    else
      writer.append(hf::convert(values, entry.dtype));
  writer.finish();
}

}  // namespace mtp::test
