#pragma once

#include <filesystem>

namespace mtp {

/// Sets up spdlog's default logger, which everything logs to (`spdlog::info(…)`): the screen (standard error) and,
/// where `run_dir` is given, `run_dir/log.txt`, which is appended to. Rank 0 logs from `info` on, other ranks from
/// `warn` on, with their number. May be called again, for instance once the run directory is known. Throws Error where
/// the file cannot be opened.
void start_log(int rank, const std::filesystem::path& run_dir = {});

/// From now on the screen shows only what is wrong; log.txt shows all.
void quiet_screen();

}  // namespace mtp
