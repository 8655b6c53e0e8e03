#include "mtp/core/json.h"

#include <fstream>

#include "mtp/core/error.h"

namespace mtp {

Json read_json(const std::filesystem::path& path) {
  std::ifstream in(path);
  if (!in) throw Error("{}: cannot be read; check the path", path.string());
  try {
    return Json::parse(in);
  } catch (const Json::exception& error) {
    throw Error("{}: is no valid JSON: {}", path.string(), error.what());
  }
}

void write_json(const std::filesystem::path& path, const Json& json) {
  std::ofstream out(path);
  out << json.dump(2) << '\n';
  if (!out.flush()) throw Error("{}: cannot be written; check the folder and the free space", path.string());
}

}  // namespace mtp
