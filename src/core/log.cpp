#include "mtp/core/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "mtp/core/error.h"

namespace mtp {
namespace {

spdlog::sink_ptr file_sink(const std::filesystem::path& path) {
  try {
    return std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string());
  } catch (const spdlog::spdlog_ex& error) {
    throw Error("{}: cannot open the log: {}", path.string(), error.what());
  }
}

}  // namespace

void start_log(int rank, const std::filesystem::path& run_dir) {
  auto logger = std::make_shared<spdlog::logger>("mtp", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (!run_dir.empty()) logger->sinks().push_back(file_sink(run_dir / "log.txt"));
  logger->set_pattern(rank == 0 ? "%Y-%m-%d %H:%M:%S %l: %v" : fmt::format("%Y-%m-%d %H:%M:%S rank {} %l: %v", rank));
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger->flush_on(spdlog::level::info);  // the last line before a crash is the one that matters
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace mtp
