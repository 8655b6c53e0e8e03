#include "mtp/core/json.h"

#include <fstream>
#include <iterator>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp {

Json read_json(const std::filesystem::path& path) {
  check_is_file(path);
  std::ifstream in(path);
  if (!in) throw Error("{}: cannot be read; check the path", path.string());
  return parse_json(std::string(std::istreambuf_iterator<char>(in), {}), path.string() + ":");
}

Json parse_json(std::string_view text, const std::string& what, const Json::parser_callback_t& see) {
  constexpr int deepest = 100;
  const auto check_depth = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > deepest) throw Error("{} is no valid JSON: it is nested deeper than {} levels", what, deepest);
    return see == nullptr || see(depth, event, parsed);
  };
  try {
    return Json::parse(text, check_depth);
  } catch (const Json::exception& error) {
    throw Error("{} is no valid JSON: {}", what, error.what());
  }
}

std::string brief(const Json& json) {
  return json.is_structured() ? std::string("an ") + json.type_name() : json.dump();
}

void write_json(const std::filesystem::path& path, const Json& json) {
  std::ofstream out(path);
  out << json.dump(2) << '\n';
  if (!out.flush()) throw Error("{}: cannot be written; check the folder and the free space", path.string());
}

}  // namespace mtp
