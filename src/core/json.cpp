#include "mtp/core/json.h"

#include <fstream>
#include <string>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp {

Json read_json(const std::filesystem::path& path) {
  check_is_file(path);
  const RandomAccessFile file(path, RandomAccessFile::Access::read);
  std::string text(static_cast<std::size_t>(file.bytes()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return parse_json(text, path.string() + ":");
}

Json parse_json(std::string_view text, const std::string& what, const Json::parser_callback_t& see) {
  constexpr int deepest = 100;
  const auto check_depth = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > deepest) throw DamageError("{} is no valid JSON: it is nested deeper than {} levels", what, deepest);
    return see == nullptr || see(depth, event, parsed);
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const Json::exception& error) {
    throw DamageError("{} is no valid JSON: {}", what, error.what());
  }
}

std::string brief(const Json& json) {
  return json.is_structured() ? std::string("an ") + json.type_name() : json.dump();
}

void write_json(const std::filesystem::path& path, const Json& json) {
  std::ofstream out(path);
  out << json.dump(2) << '\n';
  if (out.flush()) return;
  std::error_code unused;
  if (std::filesystem::is_regular_file(path, unused)) std::filesystem::remove(path, unused);
  throw Error("{}: cannot be written; check the folder and the free space", path.string());
}

}  // namespace mtp
