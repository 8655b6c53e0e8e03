#include "mtp/checkpoint/directory.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

const std::string prefix = "step_", partial = ".partial", replaced = ".replaced";

fs::path folder_of(const fs::path& run_dir) { return run_dir / "checkpoints"; }
std::string name_of(std::int64_t step) { return fmt::format("{}{:08}", prefix, step); }

std::optional<std::int64_t> step_of(const std::string& name) {
  std::int64_t step = 0;
  const char* const end = name.data() + name.size();
  if (!name.starts_with(prefix)) return {};
  const auto [stop, error] = std::from_chars(name.data() + prefix.size(), end, step);
  return error == std::errc() && stop == end && step >= 0 ? std::optional(step) : std::nullopt;
}

/// Moves a checkpoint out of the complete ones in one step, so that a half-removed one is never taken for complete.
void set_aside(const fs::path& directory) {
  const fs::path aside = directory.parent_path() / ("." + directory.filename().string() + replaced);
  fs::remove_all(aside);
  fs::rename(directory, aside);
}

void remove_hidden(const fs::path& folder, const std::string& ending) {
  std::vector<fs::path> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (name.starts_with(".") && name.ends_with(ending)) found.push_back(entry.path());
  }
  for (const fs::path& path : found) fs::remove_all(path);
}

/// Moves the link in one step.
void point_latest_at(const fs::path& folder, const std::string& name) {
  const fs::path fresh = folder / (".latest" + partial);
  fs::remove(fresh);
  fs::create_directory_symlink(name, fresh);
  fs::rename(fresh, folder / "latest");
  sync_to_disk(folder);
}

std::int64_t in_mib(std::int64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }

void check_free_space(const fs::path& folder, std::int64_t bytes) {
  if (const std::int64_t free = free_bytes(folder); free < bytes)
    throw Error("{}: {} MiB are needed for a checkpoint, {} MiB are free; free some space or lower checkpoint.keep",
                folder.string(), in_mib(bytes), free >> 20);
}

/// The standard library names both paths and repeats itself.
template <typename Action>
void in_our_words(const Action& action) {
  try {
    action();
  } catch (const fs::filesystem_error& error) {
    throw Error("{}: cannot be written: {}", error.path1().string(), error.code().message());
  }
}

}  // namespace

std::vector<Complete> complete_checkpoints(const fs::path& run_dir) {
  std::vector<Complete> found;
  if (is_missing(folder_of(run_dir))) return found;
  try {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_of(run_dir)))
      if (const auto step = step_of(entry.path().filename()); step && fs::is_directory(entry.path()))
        found.push_back({*step, entry.path()});
  } catch (const fs::filesystem_error& error) {
    throw Error("{}: cannot be read: {}; nothing is known of its checkpoints", error.path1().string(),
                error.code().message());
  }
  std::ranges::sort(found, {}, &Complete::step);
  return found;
}

bool is_checkpoint(const fs::path& directory) {
  return !is_missing(directory / "state.h5") || !is_missing(directory / "checksums.json");
}

fs::path partial_directory(const fs::path& run_dir, std::int64_t step) {
  return folder_of(run_dir) / ("." + name_of(step) + partial);
}

fs::path existing_part(const fs::path& path) {
  fs::path part = fs::absolute(path).lexically_normal();
  while (is_missing(part)) part = part.parent_path();
  return part;
}

void check_room(const fs::path& run_dir, std::int64_t bytes, std::int64_t keep) {
  const fs::path folder = existing_part(run_dir);
  check_free_space(folder, bytes);
  // A new one is whole before an old one goes.
  const std::int64_t more = std::max<std::int64_t>(1, keep + 1 - std::ssize(complete_checkpoints(run_dir)));
  if (const std::int64_t free = free_bytes(folder); free < more * bytes)
    spdlog::warn("{}: {} more checkpoints take {} MiB, {} MiB are free; free some space or lower checkpoint.keep",
                 run_dir.string(), more, in_mib(more * bytes), free >> 20);
}

void make_partial(const fs::path& run_dir, std::int64_t step, std::int64_t bytes) {
  in_our_words([&] {
    const fs::path directory = partial_directory(run_dir, step);
    fs::remove_all(directory);
    fs::create_directories(directory);
    check_free_space(directory, bytes);
  });
}

void complete(const fs::path& run_dir, std::int64_t step, const Kept& kept) {
  in_our_words([&] {
    const fs::path folder = folder_of(run_dir), directory = folder / name_of(step);
    if (fs::exists(directory)) set_aside(directory);
    fs::rename(partial_directory(run_dir, step), directory);
    sync_to_disk(folder);
    point_latest_at(folder, directory.filename());
    const std::vector<Complete> all = complete_checkpoints(run_dir);
    const auto best = std::ranges::find_first_of(kept.best_first, all, {}, {}, &Complete::step);
    for (std::size_t i = 0; i + static_cast<std::size_t>(kept.newest) < all.size(); ++i)
      if (best == kept.best_first.end() || all[i].step != *best) set_aside(all[i].directory);
    remove_hidden(folder, replaced);
  });
}

void clean(const fs::path& run_dir, std::int64_t step) {
  if (is_missing(folder_of(run_dir))) return;
  in_our_words([&] {
    remove_hidden(folder_of(run_dir), partial);
    const std::vector<Complete> all = complete_checkpoints(run_dir);
    if (all.empty() || all.back().step <= step) return;
    for (const Complete& checkpoint : all)
      if (checkpoint.step == step) point_latest_at(folder_of(run_dir), checkpoint.directory.filename());
    for (const Complete& checkpoint : all)
      if (checkpoint.step > step) set_aside(checkpoint.directory);
  });
}

}  // namespace mtp::checkpoint
