#include "mtp/checkpoint/manifest.h"

#include <algorithm>

#include "mtp/core/checksum.h"
#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

constexpr int format_version = 1;

std::size_t count_of_blocks(std::int64_t elements) {
  return static_cast<std::size_t>((elements + checksum_block - 1) / checksum_block);
}

/// Throws Error unless the parts follow one another from element 0 on and have all their checksums.
void check_parts(const std::string& tensor, const std::vector<Part>& parts) {
  std::int64_t end = 0;
  for (const Part& part : parts) {
    if (part.begin != end || part.elements <= 0 || part.checksums.size() != count_of_blocks(part.elements))
      throw DamageError("{}: elements {} of rank {} do not follow on {}", tensor, part.begin, part.rank, end);
    if (__builtin_add_overflow(end, part.elements, &end)) throw DamageError("{}: has too many elements", tensor);
  }
}

Json to_json(const Manifest& manifest) {
  std::vector<std::map<std::string, Part>> parts(manifest.rank_files.size());
  for (const auto& [name, of_tensor] : manifest.tensors)
    for (const Part& part : of_tensor) parts[static_cast<std::size_t>(part.rank)][name] = part;
  Json files = Json::object(), ranks = Json::array();
  for (const auto& [path, file] : manifest.files) files[path] = {{"bytes", file.bytes}, {"checksum", file.checksum}};
  for (std::size_t rank = 0; rank < parts.size(); ++rank)
    ranks.push_back(to_json(manifest.rank_files[rank], parts[rank]));
  return {{"format", "mtp-checksums"}, {"version", format_version}, {"algorithm", "XXH3-128"},
          {"block", checksum_block},   {"files", std::move(files)}, {"ranks", std::move(ranks)}};
}

}  // namespace

Json to_json(const RankFile& file, const std::map<std::string, Part>& parts) {
  Json json = {{"bytes", file.bytes}, {"layout", file.layout_checksum}, {"parts", Json::object()}};
  for (const auto& [name, part] : parts)
    json["parts"][name] = {
        {"begin", part.begin}, {"elements", part.elements}, {"position", part.position}, {"checksums", part.checksums}};
  return json;
}

void Manifest::add_rank(const Json& rank_file) {
  const int rank = ranks();
  rank_files.push_back({rank_file.at("bytes").get<std::int64_t>(), rank_file.at("layout").get<std::string>()});
  for (const auto& [name, part] : rank_file.at("parts").items())
    tensors[name].push_back({rank, part.at("begin").get<std::int64_t>(), part.at("elements").get<std::int64_t>(),
                             part.at("position").get<std::int64_t>(),
                             part.at("checksums").get<std::vector<std::string>>()});
}

void Manifest::add_file(const fs::path& checkpoint, const fs::path& path) {
  files[path.lexically_relative(checkpoint).generic_string()] = {static_cast<std::int64_t>(fs::file_size(path)),
                                                                 checksum_of_file(path)};
}

void Manifest::write(const fs::path& path) const { write_json(path, to_json(*this)); }

Manifest Manifest::read(const fs::path& path) {
  if (is_missing(path)) throw DamageError("{}: is missing", path.string());
  const Json json = read_json(path);
  Manifest manifest;
  if (json.is_object() && json.value("format", Json()) == "mtp-checksums" &&
      json.value("version", Json(format_version)) != format_version)
    throw Error("{}: has version {}, this program reads version {}; use the program that wrote it", path.string(),
                brief(json["version"]), format_version);
  try {
    if (json.at("format") != "mtp-checksums" || json.at("block") != checksum_block)
      throw DamageError("it is of another format");
    for (const auto& [file, entry] : json.at("files").items())
      manifest.files[file] = {entry.at("bytes").get<std::int64_t>(), entry.at("checksum").get<std::string>()};
    for (const Json& rank_file : json.at("ranks")) manifest.add_rank(rank_file);
    for (auto& [name, parts] : manifest.tensors) {
      std::ranges::sort(parts, {}, &Part::begin);  // ranks that divide experts among them hold them in another order
      check_parts(name, parts);
    }
  } catch (const std::exception& error) {  // of Json too
    throw DamageError("{}: does not list a checkpoint: {}", path.string(), error.what());
  }
  return manifest;
}

void verify_file(const fs::path& checkpoint, const std::string& path, const Manifest& manifest) {
  const fs::path file = checkpoint / path;
  const auto listed = manifest.files.find(path);
  if (listed == manifest.files.end()) throw DamageError("{}: is not in the list of checksums", file.string());
  if (is_missing(file)) throw DamageError("{}: is missing", file.string());
  const std::int64_t bytes = RandomAccessFile(file, RandomAccessFile::Access::read).bytes();
  if (bytes != listed->second.bytes)
    throw DamageError("{}: has {} bytes, {} were written", file.string(), bytes, listed->second.bytes);
  if (checksum_of_file(file) != listed->second.checksum)
    throw DamageError("{}: its checksum is not the one of what was written", file.string());
}

}  // namespace mtp::checkpoint
