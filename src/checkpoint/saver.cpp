#include "mtp/checkpoint/saver.h"

#include <spdlog/spdlog.h>

#include <filesystem>

#include "mtp/checkpoint/manifest.h"
#include "mtp/checkpoint/source.h"
#include "mtp/core/file.h"
#include "rank_file.h"
#include "state_file.h"

namespace mtp::checkpoint {

namespace fs = std::filesystem;

namespace {

std::int64_t bytes_with_surroundings(std::int64_t values, std::int64_t tensors, int ranks) {
  // What HDF5 and the file system keep beside values: once, and per tensor and rank.
  constexpr std::int64_t once = std::int64_t{1} << 20, per_part = 1024;
  return values * std::int64_t{sizeof(float)} + once + tensors * ranks * per_part;
}

}  // namespace

std::int64_t checkpoint_bytes(const model::TensorTable& table, int ranks) {
  constexpr int kinds = 3;  // the parameter and its two moments
  std::int64_t values = 0, tensors = 0;
  for (const model::TensorInfo& tensor : table.tensors()) {
    if (tensor.role != model::Role::trained) continue;
    values += kinds * num_elements(tensor.shape);
    tensors += kinds;
  }
  return bytes_with_surroundings(values, tensors, ranks);
}

std::int64_t kept_at_most(const Settings::Checkpoint& settings) {
  return settings.keep + (settings.keep_best == KeepBest::none ? 0 : 1);
}

Saver::Saver(RunDescription run, Manifest source, const parallel::Units& units, const Device& device,
             const parallel::Communicator& communicator)
    : state_{.run = std::move(run)},
      device_(device),
      communicator_(communicator),
      snapshot_(units),
      tensors_(state_tensors(units, communicator.size())),
      source_(std::move(source)) {}

void Saver::save(const Save& save) {
  wait();
  begin_ = std::chrono::steady_clock::now();
  state_.step = save.step;
  state_.epoch = save.epoch;
  state_.position = save.position;
  state_.lr = save.next_lr;
  kept_ = {.newest = state_.run.settings.checkpoint.keep, .best_first = save.best_first};
  const std::int64_t size = bytes();
  failure_ = parallel::first_failure(communicator_, "the start of a checkpoint", [&] {
    if (communicator_.is_first()) make_partial(run_dir(), save.step, size);
  });
  if (!failure_.empty()) return fail(failure_);
  const bool goes_on = state_.run.settings.checkpoint.background && !save.run_ends;
  if (goes_on)
    snapshot_.take(device_);
  else
    snapshot_.take_unchanging(device_);
  start(Stage::writing, [this](const std::stop_token& stop) { return write(stop).dump(); });
  if (!goes_on) wait();
}

void Saver::advance() {
  if (stage_ != Stage::none && communicator_.max(is_ready_ ? 0 : 1, "a checkpoint under way") == 0) end_stage();
}

void Saver::finish() {
  wait();
  if (!failure_.empty()) throw AgreedError(fmt::format("checkpoint of step {}: {}", state_.step, failure_), 1);
}

fs::path Saver::directory() const { return partial_directory(run_dir(), state_.step); }

std::int64_t Saver::bytes() const {
  std::int64_t values = 0;
  for (const StateTensor& tensor : tensors_) values += num_elements(tensor.shape);
  return bytes_with_surroundings(values, std::ssize(tensors_), communicator_.size());
}

void Saver::check_room() const {
  const std::int64_t size = bytes();
  const std::int64_t kept = kept_at_most(state_.run.settings.checkpoint);
  const std::string failure = parallel::first_failure(communicator_, "the room for a checkpoint", [&] {
    if (communicator_.is_first()) checkpoint::check_room(run_dir(), size, kept);
  });
  if (!failure.empty()) throw AgreedError(failure, 1);
}

Json Saver::write(const std::stop_token& stop) const {
  Json report = snapshot_.write(directory() / rank_file_name(communicator_.rank()), stop);
  if (communicator_.is_first()) {
    write_state_file(directory() / "state.h5", state_, tensors_);
    link_files(run_dir() / "source", directory() / "source");
  }
  return report;
}

void Saver::complete(const std::vector<std::string>& reports) const {
  Manifest manifest = source_;
  for (const std::string& report : reports) manifest.add_rank(Json::parse(report));
  manifest.add_file(directory(), directory() / "state.h5");
  manifest.write(directory() / "checksums.json");
  sync_folder_to_disk(directory());
  checkpoint::complete(run_dir(), state_.step, kept_);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin_;
  spdlog::info("step {} is saved, after {:.1f} s", state_.step, time.count());
}

template <typename Work>
void Saver::start(Stage stage, Work work) {
  stage_ = stage;
  is_ready_ = false;
  outcome_ = {};
  thread_ = std::jthread([this, work](const std::stop_token& stop) {
    try {
      outcome_.report = work(stop);
    } catch (...) {
      outcome_.failure = std::current_exception();
    }
    is_ready_ = true;
  });
}

void Saver::end_stage() {
  const parallel::LongerWait longer_wait(communicator_);  // with a rank that still writes
  if (thread_.joinable()) thread_.join();
  const Stage ended = std::exchange(stage_, Stage::none);
  failure_ = parallel::first_failure(communicator_, "the outcome of a checkpoint", [&] {
    if (outcome_.failure) std::rethrow_exception(outcome_.failure);
  });
  if (!failure_.empty()) return fail(failure_);
  if (ended == Stage::completing) return;
  const std::vector<std::string> reports = communicator_.all_gather(outcome_.report, "the checksums of a checkpoint");
  if (communicator_.is_first())
    start(Stage::completing, [this, reports](const std::stop_token&) {
      complete(reports);
      return std::string();
    });
  stage_ = Stage::completing;
}

void Saver::wait() {
  while (stage_ != Stage::none) end_stage();
}

void Saver::fail(const std::string& reason) {
  if (!communicator_.is_first()) return;
  std::error_code left_behind;  // as good as removed: what is partial is ignored
  fs::remove_all(directory(), left_behind);
  const std::vector<Complete> complete = complete_checkpoints(run_dir());
  spdlog::warn("step {} is not saved: {}; the run goes on, {}", state_.step, reason,
               complete.empty() ? "without a checkpoint so far"
                                : "the newest checkpoint is of step " + std::to_string(complete.back().step));
}

}  // namespace mtp::checkpoint
