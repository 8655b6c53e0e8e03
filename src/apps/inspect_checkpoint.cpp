#include "inspect_checkpoint.h"

#include <iostream>
#include <map>
#include <string>

#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/ranking.h"
#include "mtp/checkpoint/state.h"
#include "mtp/core/error.h"
#include "print_line.h"

namespace mtp::apps {

namespace fs = std::filesystem;

using checkpoint::State;

namespace {

/// The first line of a text that starts with a word, without it.
std::string line_of(const std::string& text, const std::string& word) {
  const std::size_t begin = ("\n" + text).find("\n" + word + " ");
  if (begin == std::string::npos) return "unknown";
  return text.substr(begin + word.size() + 1, text.find('\n', begin) - begin - word.size() - 1);
}

std::int64_t bytes_of(const checkpoint::Manifest& manifest) {
  std::int64_t bytes = 0;
  for (const checkpoint::RankFile& file : manifest.rank_files) bytes += file.bytes;
  for (const auto& [unused, file] : manifest.files) bytes += file.bytes;
  return bytes;
}

void print_sizes(const State& state) {
  struct Count {
    std::int64_t tensors = 0, elements = 0;
  };
  std::map<std::string, Count> kinds;
  for (const auto& [name, parts] : state.manifest().tensors) {
    Count& kind = kinds[name.substr(0, name.find('/'))];
    ++kind.tensors;
    kind.elements += num_elements(state.shape(name));
  }
  for (const auto& [kind, count] : kinds) print_line(kind, "{} tensors, {} elements", count.tensors, count.elements);
  print_line("size", "{:.1f} MiB", static_cast<double>(bytes_of(state.manifest())) / (1 << 20));
}

void verify(const State& state) {
  state.verify_files();
  state.verify_tensors();
}

/// Empty where a checkpoint is sound.
std::string damage_of(const fs::path& path) {
  try {
    verify(State(path));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace

void inspect_checkpoint(const fs::path& path, bool tensors) {
  const State state(path);
  print_line("kind", "checkpoint");
  print_line("step", "{}, next sample {} of epoch {}", state.step(), state.number("position"), state.number("epoch"));
  print_line("ranks", "{}", state.manifest().ranks());
  print_line("device", "{}", state.text("device"));
  print_line("revision", "{}", line_of(state.text("revision"), "revision"));
  print_sizes(state);
  if (tensors)
    for (const auto& [name, parts] : state.manifest().tensors)
      std::cout << fmt::format("  {} {} on {} ranks\n", name, to_string(state.shape(name)), parts.size());
  std::cout << "settings\n" << state.text("settings");
  verify(state);
  print_line("checksums", "verified, all hold");
}

void inspect_run(const fs::path& path) {
  print_line("kind", "run");
  std::error_code none;
  const fs::path latest = fs::read_symlink(path / "checkpoints" / "latest", none);
  int damaged = 0, all = 0;
  for (const checkpoint::Complete& complete : checkpoint::complete_checkpoints(path)) {
    const std::string name = complete.directory.filename(), damage = damage_of(complete.directory);
    print_line(name, "{}{}", damage.empty() ? "sound" : "damaged: " + damage, name == latest ? ", latest" : "");
    ++all;
    damaged += damage.empty() ? 0 : 1;
  }
  if (all == 0) print_line("checkpoints", "none is complete");
  if (const auto best = checkpoint::best_checkpoint(path))
    print_line("best", "{}", best->directory.filename().string());
  if (damaged > 0) throw Error("{}: {} of {} checkpoints damaged", path.string(), damaged, all);
}

}  // namespace mtp::apps
