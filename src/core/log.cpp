#include "mtp/core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "mtp/core/error.h"

namespace mtp {
namespace {

bool screen_is_quiet = false;

spdlog::sink_ptr file_sink(const std::filesystem::path& path) {
  try {
    return std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
  } catch (const spdlog::spdlog_ex& error) {
    throw Error("{}: cannot open the log: {}", path.string(), error.what());
  }
}

spdlog::sink_ptr screen_sink() {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  if (screen_is_quiet) sink->set_level(spdlog::level::warn);
  return sink;
}

}  // namespace

void quiet_screen() {
  screen_is_quiet = true;
  spdlog::default_logger()->sinks().front()->set_level(spdlog::level::warn);
}

void start_log(int rank, const std::filesystem::path& run_dir) {
  auto logger = std::make_shared<spdlog::logger>("mtp", screen_sink());
  if (!run_dir.empty()) logger->sinks().push_back(file_sink(run_dir / "log.txt"));
  logger->set_pattern(rank == 0 ? "%Y-%m-%d %H:%M:%S %l: %v" : fmt::format("%Y-%m-%d %H:%M:%S rank {} %l: %v", rank));
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger->flush_on(spdlog::level::info);  // the last line before a crash is the one that matters
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace mtp
