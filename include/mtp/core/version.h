#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace mtp {

/// Of this program, such as "0.1.0", and of the sources that it was built from, as `git describe` names it.
std::string version();
std::string revision();

struct Library {
  std::string name, version;
};
/// The libraries that this module uses.
std::vector<Library> libraries();

/// What `--version` prints: program, version, git revision, and a line for each of the libraries.
std::string version_text(std::string_view program);

}  // namespace mtp
