#include "mtp/hf/safetensors.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <set>

#include "mtp/core/error.h"
#include "mtp/core/file.h"
#include "mtp/core/json.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp::hf {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

/// A file's bytes, mapped read-only.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path) : file_(open_checked(path)), size_(file_.bytes()) {
    if (size_ > 0) data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file_.descriptor(), 0);
    if (data_ == MAP_FAILED) throw Error("{}: cannot be mapped into memory: {}", path.string(), system_reason(errno));
  }
  ~MappedFile() {
    if (data_ != nullptr) munmap(data_, size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

  /// A copy of `bytes`, a part of this file's, that does not make them count as this process's memory.
  void copy(std::span<const std::byte> bytes, std::span<std::byte> to) const {
    file_.read(bytes.data() - static_cast<const std::byte*>(data_), to);
  }

 private:
  static RandomAccessFile open_checked(const fs::path& path) {
    check_is_file(path);
    return {path, RandomAccessFile::Access::read};
  }

  RandomAccessFile file_;
  std::size_t size_;
  void* data_ = nullptr;
};

namespace {

constexpr std::uint64_t longest_header = 100'000'000;  // the format's own limit

float from_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float sign = bits >> 15 != 0 ? -1.0f : 1.0f;
  if (exponent == 31)
    return sign * (fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity());
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

std::uint16_t to_bf16(float value) { return BFloat16(value).bits; }

std::uint16_t to_f16(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::abs(value);
  if (std::isnan(value)) return sign | 0x7E00;
  if (magnitude >= 65520.0f) return sign | 0x7C00;  // rounds to infinity
  // nearbyint rounds to nearest even; in units of the last place of the result. A zero counts as subnormal.
  int exponent = -13;
  if (magnitude != 0) std::frexp(magnitude, &exponent);
  const int unit = std::max(exponent - 11, -24);
  const auto units = static_cast<std::uint16_t>(std::nearbyint(std::ldexp(magnitude, -unit)));
  // 1024 units of a normal number are its implied bit: adding fractions to the exponent carries over by itself.
  return static_cast<std::uint16_t>(sign + static_cast<std::uint16_t>((unit + 24) << 10) + units);
}

template <typename Stored, typename Convert>
void convert_all(std::span<const std::byte> bytes, std::span<float> values, const Convert& convert) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
}

/// The header of a mapped file, and where the data begin.
std::pair<Json, std::size_t> read_header(const fs::path& path, std::span<const std::byte> bytes) {
  std::uint64_t length = 0;
  if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size())
          .starts_with("version https://git-lfs"))
    throw Error("{}: is a Git LFS pointer, not the file itself; run git lfs pull in its repository", path.string());
  if (bytes.size() < sizeof(length)) throw Error("{}: has {} bytes, too few for a header", path.string(), bytes.size());
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > longest_header || length > bytes.size() - sizeof(length))
    throw Error("{}: the header claims {} bytes, the file has {}", path.string(), length, bytes.size());
  const char* text = reinterpret_cast<const char*>(bytes.data()) + sizeof(length);
  // Of two equal keys one would silently win: they are found here, before the parser merges them.
  std::set<std::string> keys;
  const auto refuse_duplicates = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth == 1 && event == Json::parse_event_t::key && !keys.insert(parsed.get<std::string>()).second)
      throw Error("{}: tensor {} appears twice in the header", path.string(), parsed.get<std::string>());
    return true;
  };
  Json header = parse_json({text, length}, path.string() + ": the header", refuse_duplicates);
  if (!header.is_object()) throw Error("{}: the header is no JSON object", path.string());
  return {std::move(header), sizeof(length) + length};
}

const std::map<std::string, std::size_t>& element_sizes() {
  static const std::map<std::string, std::size_t> sizes = {
      {"F64", 8},  {"I64", 8}, {"U64", 8},     {"C64", 8},     {"F32", 4},    {"I32", 4},
      {"U32", 4},  {"F16", 2}, {"BF16", 2},    {"I16", 2},     {"U16", 2},    {"I8", 1},
      {"BOOL", 1}, {"U8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};
  return sizes;
}

/// Elements of a shape; no value where a size is negative or the product too large.
std::optional<std::uint64_t> checked_elements(const Shape& shape) {
  std::uint64_t elements = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || (size > 0 && elements > (std::uint64_t{1} << 60) / static_cast<std::uint64_t>(size))) return {};
    elements *= static_cast<std::uint64_t>(size);
  }
  return elements;
}

struct Placed {
  TensorEntry entry;
  std::uint64_t begin = 0, end = 0;
};

/// The array of integers under a key of a tensor's entry.
template <typename T>
std::vector<T> read_integers(const std::string& where, const Json& json, const char* key) {
  if (!json.contains(key) || !json[key].is_array()) throw Error("{}: {} is no array", where, key);
  std::vector<T> values;
  for (const Json& value : json[key]) {
    const std::optional<T> integer = try_get<T>(value);
    if (!integer) throw Error("{}: {} has no integer but {}", where, key, brief(value));
    values.push_back(*integer);
  }
  return values;
}

Placed read_entry(const std::string& file, const std::string& name, const Json& json) {
  const std::string where = fmt::format("{}: tensor {}", file, name);
  if (!json.is_object() || !json.contains("dtype") || !json["dtype"].is_string())
    throw Error("{}: dtype is no string", where);
  const auto offsets = read_integers<std::uint64_t>(where, json, "data_offsets");
  if (offsets.size() != 2) throw Error("{}: data_offsets has {} numbers, not 2", where, offsets.size());
  const Placed placed{
      .entry = {name, json["dtype"].get<std::string>(), read_integers<std::int64_t>(where, json, "shape")},
      .begin = offsets[0],
      .end = offsets[1]};
  if (!element_sizes().contains(placed.entry.dtype))
    throw Error("{}: tensor {} has the unknown element type {}", file, name, placed.entry.dtype);
  const std::optional<std::uint64_t> elements = checked_elements(placed.entry.shape);
  if (!elements || placed.begin > placed.end || placed.end - placed.begin != *elements * size_of(placed.entry.dtype))
    throw Error("{}: tensor {} of shape {} and type {} cannot have the bytes {} to {}", file, name,
                to_string(placed.entry.shape), placed.entry.dtype, placed.begin, placed.end);
  return placed;
}

}  // namespace

std::size_t size_of(const std::string& dtype) {
  const auto found = element_sizes().find(dtype);
  if (found == element_sizes().end()) throw Error("safetensors: the element type {} is unknown", dtype);
  return found->second;
}

TensorFiles TensorFiles::open(const fs::path& directory) {
  TensorFiles files;
  files.where_ = directory.string();
  const fs::path index = directory / "model.safetensors.index.json";
  if (!fs::is_directory(directory)) throw Error("{}: is no directory; name a Hugging Face model's", directory.string());
  // Hugging Face looks for the one file first, too.
  if (fs::exists(directory / "model.safetensors") || !fs::exists(index)) {
    files.add_file(directory / "model.safetensors");
    return files;
  }
  const Json json = read_json(index);
  if (!json.contains("weight_map") || !json["weight_map"].is_object())
    throw Error("{}: has no weight_map", index.string());
  const Json& map = json["weight_map"];
  std::set<std::string> shards;
  for (const auto& [name, shard] : map.items()) {
    const auto file = shard.is_string() ? shard.get<std::string>() : std::string();
    if (file.empty() || fs::path(file).filename() != file)
      throw Error("{}: tensor {} has no file name but {}", index.string(), name, brief(shard));
    shards.insert(file);
  }
  for (const std::string& shard : shards) files.add_file(directory / shard);
  for (const auto& [name, shard] : map.items())
    if (!files.has(name)) throw Error("{}: tensor {} is not in {}", index.string(), name, shard.get<std::string>());
  return files;
}

TensorFiles TensorFiles::open_file(const fs::path& file) {
  TensorFiles files;
  files.where_ = file.string();
  files.add_file(file);
  return files;
}

TensorFiles TensorFiles::open_file(const fs::path& file, const std::vector<TensorEntry>& without_values) {
  TensorFiles files = open_file(file);
  for (const TensorEntry& entry : without_values)
    if (!files.tensors_.insert({entry.name, {entry, {}}}).second)
      throw Error("{}: tensor {} is in another file too", file.string(), entry.name);
  return files;
}

TensorFiles TensorFiles::without_files(std::string where, const std::vector<TensorEntry>& tensors) {
  TensorFiles files;
  files.where_ = std::move(where);
  const std::vector<std::uint64_t> offsets = data_offsets(tensors);
  const std::size_t size = offsets.back();
  void* zeros = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (zeros == MAP_FAILED) throw Error("{}: no addresses for {} bytes: {}", files.where_, size, system_reason(errno));
  files.zeros_ = {static_cast<std::byte*>(zeros), [size](std::byte* begin) { munmap(begin, size); }};
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::span<std::byte> bytes(files.zeros_.get() + offsets[i], offsets[i + 1] - offsets[i]);
    if (tensors[i].dtype == "I64") {
      std::vector<std::int64_t> numbers(bytes.size() / sizeof(std::int64_t));
      std::iota(numbers.begin(), numbers.end(), 0);
      std::memcpy(bytes.data(), numbers.data(), bytes.size());
    }
    files.tensors_.insert({tensors[i].name, {tensors[i], bytes}});
  }
  return files;
}

void TensorFiles::add_file(const fs::path& path) {
  files_.push_back(std::make_shared<MappedFile>(path));
  const std::span<const std::byte> bytes = files_.back()->bytes();
  const auto [header, start] = read_header(path, bytes);
  std::vector<Placed> placed;
  for (const auto& [name, json] : header.items())
    if (name != "__metadata__") placed.push_back(read_entry(path.string(), name, json));

  std::sort(placed.begin(), placed.end(),
            [](const Placed& a, const Placed& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t end = 0;
  for (const Placed& tensor : placed) {
    if (tensor.begin < end)  // bytes of no tensor, as tools leave them that replace one, do no harm
      throw Error("{}: tensor {} begins at byte {}, the one before ends at {}", path.string(), tensor.entry.name,
                  tensor.begin, end);
    end = tensor.end;
    if (end > bytes.size() - start)
      throw Error("{}: tensor {} ends at byte {}, the file has {}; it may be cut off", path.string(), tensor.entry.name,
                  end, bytes.size() - start);
    const auto [unused, is_new] = tensors_.insert(
        {tensor.entry.name,
         {tensor.entry, bytes.subspan(start + tensor.begin, tensor.end - tensor.begin), files_.back().get()}});
    if (!is_new) throw Error("{}: tensor {} is in another file too", path.string(), tensor.entry.name);
  }
  if (end != bytes.size() - start)
    throw Error("{}: has {} bytes of data, the header names {}", path.string(), bytes.size() - start, end);
}

std::vector<std::string> TensorFiles::names() const {
  std::vector<std::string> names;
  for (const auto& [name, unused] : tensors_) names.push_back(name);
  return names;
}

const TensorFiles::Tensor& TensorFiles::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) throw Error("{}: tensor {} is missing", where_, name);
  return found->second;
}

void TensorFiles::copy_bytes(const std::string& name, std::uint64_t begin, std::span<std::byte> to) const {
  const Tensor& tensor = find(name);
  MTP_ASSERT(begin + to.size() <= tensor.bytes.size());
  const std::span<const std::byte> bytes = tensor.bytes.subspan(begin, to.size());
  if (tensor.file != nullptr)
    tensor.file->copy(bytes, to);
  else
    std::ranges::copy(bytes, to.begin());
}

void TensorFiles::read(const std::string& name, std::int64_t begin, std::span<float> values) const {
  const std::string& dtype = find(name).entry.dtype;
  if (dtype != "F32" && dtype != "F64" && dtype != "BF16" && dtype != "F16")
    throw Error("{}: tensor {} has type {}; F32, BF16, F16 or F64 is needed", where_, name, dtype);
  MTP_ASSERT(begin >= 0);
  constexpr std::size_t most = std::size_t{1} << 20;  // elements that are in memory in both types
  const std::size_t size = size_of(dtype);
  std::vector<std::byte> bytes;
  for (std::size_t done = 0; done < values.size(); done += most) {
    const std::span<float> some = values.subspan(done, std::min(most, values.size() - done));
    bytes.resize(some.size() * size);
    copy_bytes(name, (static_cast<std::uint64_t>(begin) + done) * size, bytes);
    if (dtype == "F32")
      convert_all<float>(bytes, some, [](float v) { return v; });
    else if (dtype == "F64")
      convert_all<double>(bytes, some, [](double v) { return static_cast<float>(v); });
    else if (dtype == "BF16")
      convert_all<BFloat16>(bytes, some, [](float v) { return v; });
    else
      convert_all<std::uint16_t>(bytes, some, from_f16);
  }
}

std::vector<std::int64_t> TensorFiles::read_int64(const std::string& name) const {
  const Tensor& tensor = find(name);
  if (tensor.entry.dtype != "I64")
    throw Error("{}: tensor {} has type {}; I64 is needed", where_, name, tensor.entry.dtype);
  std::vector<std::int64_t> values(tensor.bytes.size() / sizeof(std::int64_t));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

std::vector<std::byte> convert(std::span<const float> values, const std::string& dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  if (dtype == "F32") {
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  MTP_ASSERT(dtype == "BF16" || dtype == "F16");
  const auto round = dtype == "BF16" ? to_bf16 : to_f16;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t rounded = round(values[i]);
    std::memcpy(bytes.data() + 2 * i, &rounded, 2);
  }
  return bytes;
}

}  // namespace mtp::hf
