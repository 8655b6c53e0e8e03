#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

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

int open_for_writing(const fs::path& path, int more_flags) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | more_flags, 0644);
  if (file < 0)
    throw Error("{}: cannot be written: {}; check the folder and the free space", path.string(), std::strerror(errno));
  return file;
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
  const int file = open_for_writing(path, O_CREAT | O_TRUNC);
  const bool written = ::write(file, header.data(), header.size()) == static_cast<ssize_t>(header.size()) &&
                       ftruncate(file, static_cast<off_t>(header.size() + data_offsets(tensors).back())) == 0;
  close(file);
  if (!written) throw Error("{}: writing failed; check the free space", path.string());
}

SafetensorsFile::SafetensorsFile(fs::path path, const std::vector<TensorEntry>& tensors)
    : path_(std::move(path)),
      file_(open_for_writing(path_, 0)),
      header_bytes_(header_of(tensors).size()),
      data_bytes_(data_offsets(tensors).back()) {}

SafetensorsFile::~SafetensorsFile() { close(file_); }

void SafetensorsFile::write(std::uint64_t position, std::span<const std::byte> bytes) {
  MTP_ASSERT(position + bytes.size() <= data_bytes_);
  while (!bytes.empty()) {
    const ssize_t count = pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(header_bytes_ + position));
    if (count < 0) throw Error("{}: writing failed: {}; check the free space", path_.string(), std::strerror(errno));
    position += static_cast<std::uint64_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void SafetensorsFile::sync() {
  if (fsync(file_) != 0)
    throw Error("{}: writing failed: {}; check the free space", path_.string(), std::strerror(errno));
}

SafetensorsWriter::SafetensorsWriter(fs::path path, const std::vector<TensorEntry>& tensors)
    : path_(std::move(path)), partial_(path_.string() + ".partial"), data_bytes_(data_offsets(tensors).back()) {
  SafetensorsFile::create(partial_, tensors);
  file_.emplace(partial_, tensors);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  file_->write(written_, bytes);
  written_ += bytes.size();
}

void SafetensorsWriter::finish() {
  MTP_ASSERT(written_ == data_bytes_);
  file_->sync();
  fs::rename(partial_, path_);
}

}  // namespace mtp::hf
