#include "mtp/checkpoint/checkpoint.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

void link_files(const fs::path& from, const fs::path& to) {
  std::error_code no_links;
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::create_hard_links, no_links);
  if (no_links) fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
}

void link_source(const State& state, const fs::path& run_dir) {
  fs::remove_all(run_dir / "source");
  link_files(state.directory() / "source", run_dir / "source");
}

}  // namespace mtp::checkpoint
