#include "mtp/core/json_lines.h"

#include <fstream>

namespace mtp {

void read_json_lines(const std::filesystem::path& path,
                     const std::function<bool(const std::string& line, const Json& value)>& see) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line) && !in.eof();) {
    const Json value = Json::parse(line, nullptr, false);
    if (!value.is_object() || !see(line, value)) return;
  }
}

}  // namespace mtp
