#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/file.h"
#include "mtp/tensor/tensor.h"

namespace mtp::hf {

/// A tensor as a safetensors header names it; `dtype` as the format spells it ("F32", "BF16", "I64", …).
struct TensorEntry {
  std::string name;
  std::string dtype;
  Shape shape;

  bool operator==(const TensorEntry&) const = default;
};

/// Bytes of one element; throws Error for a type that the format does not have.
std::size_t size_of(const std::string& dtype);

class MappedFile;

/// The tensors of one safetensors file or of a Hugging Face directory (model.safetensors, or the shards that
/// model.safetensors.index.json names), mapped into memory: only what is read is loaded.
/// Every fault of a header is an Error of one line that names file and tensor.
/// Source: https://github.com/huggingface/safetensors, the format's description.
class TensorFiles {
 public:
  static TensorFiles open(const std::filesystem::path& directory);
  static TensorFiles open_file(const std::filesystem::path& file);
  /// The same, and tensors that are somewhere else: they are known here, but their values must not be asked for.
  static TensorFiles open_file(const std::filesystem::path& file, const std::vector<TensorEntry>& without_values);
  /// Tensors that no file holds, for `where` in messages. Numbers are 0, and integers count up from 0, so that they are
  /// a permutation; neither takes memory but the integers.
  static TensorFiles without_files(std::string where, const std::vector<TensorEntry>& tensors);

  /// In the order of their bytes.
  std::vector<std::string> names() const;
  bool has(const std::string& name) const { return tensors_.contains(name); }
  /// Throws Error for a name that is not there.
  const TensorEntry& info(const std::string& name) const { return find(name).entry; }
  std::span<const std::byte> bytes(const std::string& name) const { return find(name).bytes; }
  /// A copy of a tensor's bytes from byte `begin` on; unlike `bytes`, it leaves nothing of the file in memory.
  void copy_bytes(const std::string& name, std::uint64_t begin, std::span<std::byte> to) const;
  /// Elements begin … of an F32, BF16, F16 or F64 tensor; leaves nothing of the file in memory either.
  void read(const std::string& name, std::int64_t begin, std::span<float> values) const;
  std::vector<std::int64_t> read_int64(const std::string& name) const;
  /// "DIR" or "FILE", for messages.
  std::string where() const { return where_; }

 private:
  struct Tensor {
    TensorEntry entry;
    std::span<const std::byte> bytes;
    const MappedFile* file = nullptr;
  };
  void add_file(const std::filesystem::path& file);
  const Tensor& find(const std::string& name) const;

  std::string where_;
  std::vector<std::shared_ptr<MappedFile>> files_;
  std::shared_ptr<std::byte> zeros_;  // bytes of tensors without a file
  std::map<std::string, Tensor> tensors_;
};

/// fp32 values as the bytes of another element type (F32, BF16, F16), rounded to nearest even.
std::vector<std::byte> convert(std::span<const float> values, const std::string& dtype);

/// Where each tensor's bytes begin in a file that has the tensors in this order, and at the end where the last one's
/// end; counted from the first tensor's first byte.
std::vector<std::uint64_t> data_offsets(const std::vector<TensorEntry>& tensors);

/// A safetensors file whose data are written in pieces, in any order and by any number of processes.
class SafetensorsFile {
 public:
  /// Makes the file with its header and with room for the data.
  static void create(const std::filesystem::path& path, const std::vector<TensorEntry>& tensors);
  /// Opens a file that was made of the same tensors.
  SafetensorsFile(const std::filesystem::path& path, const std::vector<TensorEntry>& tensors);

  /// Bytes from `position` of the data on, see data_offsets.
  void write(std::uint64_t position, std::span<const std::byte> bytes);
  /// Waits until what this process wrote is on the disk.
  void sync() { file_.sync(); }

 private:
  RandomAccessFile file_;
  std::uint64_t header_bytes_ = 0, data_bytes_ = 0;
};

/// Writes a safetensors file from its first tensor to its last, under a temporary name until `finish`.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, const std::vector<TensorEntry>& tensors);
  /// The next bytes.
  void append(std::span<const std::byte> bytes);
  /// Checks that all bytes came, puts the file on the disk and gives it its name.
  void finish();

 private:
  std::filesystem::path path_, partial_;
  std::optional<SafetensorsFile> file_;
  std::uint64_t written_ = 0, data_bytes_ = 0;
};

}  // namespace mtp::hf
