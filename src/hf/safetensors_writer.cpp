#include "mtp/core/error.h"
#include "mtp/core/json.h"
#include "mtp/hf/safetensors.h"

namespace mtp::hf {

namespace fs = std::filesystem;

namespace {

/// Everything before the data: the header's length and the header.
std::string header_of(const std::vector<TensorEntry>& tensors) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  const std::vector<std::uint64_t> offsets = data_offsets(tensors);
  for (std::size_t i = 0; i < tensors.size(); ++i)
    header[tensors[i].name] = {
        {"dtype", tensors[i].dtype}, {"shape", tensors[i].shape}, {"data_offsets", {offsets[i], offsets[i + 1]}}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data begin on a multiple of 8 bytes
  const std::uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

}  // namespace

std::vector<std::uint64_t> data_offsets(const std::vector<TensorEntry>& tensors) {
  std::vector<std::uint64_t> offsets = {0};
  for (const TensorEntry& tensor : tensors)
    offsets.push_back(offsets.back() + static_cast<std::uint64_t>(num_elements(tensor.shape)) * size_of(tensor.dtype));
  return offsets;
}

void SafetensorsFile::create(const fs::path& path, const std::vector<TensorEntry>& tensors) {
  const std::string header = header_of(tensors);
  RandomAccessFile file = RandomAccessFile::create(path);
  file.write(0, std::as_bytes(std::span(header)));
  file.resize(static_cast<std::int64_t>(header.size() + data_offsets(tensors).back()));
}

SafetensorsFile::SafetensorsFile(const fs::path& path, const std::vector<TensorEntry>& tensors)
    : file_(path, RandomAccessFile::Access::write),
      header_bytes_(header_of(tensors).size()),
      data_bytes_(data_offsets(tensors).back()) {}

void SafetensorsFile::write(std::uint64_t position, std::span<const std::byte> bytes) {
  MTP_ASSERT(position + bytes.size() <= data_bytes_);
  file_.write(static_cast<std::int64_t>(header_bytes_ + position), bytes);
}

namespace {

/// What fails leaves no part of a file.
void or_remove(const fs::path& partial, const auto& write) {
  try {
    write();
  } catch (...) {
    std::error_code unused;
    fs::remove(partial, unused);
    throw;
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(fs::path path, const std::vector<TensorEntry>& tensors)
    : path_(std::move(path)), partial_(path_.string() + ".partial"), data_bytes_(data_offsets(tensors).back()) {
  or_remove(partial_, [&] { SafetensorsFile::create(partial_, tensors); });
  file_.emplace(partial_, tensors);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  or_remove(partial_, [&] { file_->write(written_, bytes); });
  written_ += bytes.size();
}

void SafetensorsWriter::finish() {
  MTP_ASSERT(written_ == data_bytes_);
  file_->sync();
  fs::rename(partial_, path_);
}

}  // namespace mtp::hf
