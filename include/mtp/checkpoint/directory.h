#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

// The folder RUN/checkpoints. A checkpoint is complete once it has its final name, step_00000010: it is written as
// .step_00000010.partial, put on the disk and renamed. All functions are for one process at a time, which holds the
// run's lock, but for those that only read.
namespace mtp::checkpoint {

struct Complete {
  std::int64_t step = 0;
  std::filesystem::path directory;
};

/// The complete checkpoints of a run, sound or not, by step. Throws Error where the folder cannot be read.
std::vector<Complete> complete_checkpoints(const std::filesystem::path& run_dir);

/// Whether a folder is one, sound or not.
bool is_checkpoint(const std::filesystem::path& directory);

/// Where the checkpoint of a step is written until it is complete.
std::filesystem::path partial_directory(const std::filesystem::path& run_dir, std::int64_t step);

/// Of a path, what is there already: itself, or the folder that it would be made in.
std::filesystem::path existing_part(const std::filesystem::path& path);

/// Throws Error where the file system of a run, whose folder need not be there yet, has not room for one more
/// checkpoint of so many bytes; warns where it has none for as many as are kept, and the next one.
void check_room(const std::filesystem::path& run_dir, std::int64_t bytes, std::int64_t keep);

/// Makes an empty folder to write the checkpoint of a step in. Throws Error where that fails or the file system has
/// fewer than `bytes` bytes free.
void make_partial(const std::filesystem::path& run_dir, std::int64_t step, std::int64_t bytes);

/// What stays when checkpoints are removed: the newest, and the first of the steps `best_first` that has one.
struct Kept {
  std::int64_t newest = 1;
  std::vector<std::int64_t> best_first = {};
};

/// Gives the checkpoint its final name, once its files are on the disk, moves `latest` to it and removes all that are
/// not kept, and what was set aside.
void complete(const std::filesystem::path& run_dir, std::int64_t step, const Kept& kept);

/// Removes what killed jobs have left half-written; sets aside what is newer than `step`, from which the run now goes
/// on: it is removed when the next checkpoint is complete.
void clean(const std::filesystem::path& run_dir, std::int64_t step);

}  // namespace mtp::checkpoint
