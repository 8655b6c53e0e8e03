#include "support/suite.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "mtp/parallel/connection.h"
#include "parallel_program.h"
#include "support/timing.h"

namespace mtp::bench {

namespace {

/// Of the ranks that took part; of an even number the lower one in the middle, so that of two ranks one may be slow.
double median(std::vector<double> values) {
  std::erase(values, 0.0);
  std::ranges::sort(values);
  return values[(values.size() - 1) / 2];
}

double largest(const std::vector<double>& values) { return *std::ranges::max_element(values); }

void add_to(std::vector<double>& sums, const std::vector<double>& values) {
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
}

}  // namespace

/// The benchmark whose turn it is.
struct Suite::Prepared {
  std::string name;
  Device device;
  std::optional<parallel::Connection> connection = {};
  Work work = {};
  std::string error = {};
  std::int64_t times = 1;  // runs in a timing
  double floor_time = 0;   // of a run, where it is not timed in turn
};

Suite::Suite(parallel::Communicator& communicator, const Settings& settings, bool exchanges_tensors)
    : Suite(communicator, settings, exchanges_tensors, apps::device_of(settings, communicator, "option --device")) {}

Suite::Suite(parallel::Communicator& communicator, const Settings& settings, bool exchanges_tensors,
             const Device& device)
    : communicator_(communicator),
      settings_(settings),
      exchanges_tensors_(exchanges_tensors),
      threads_(apps::threads_of(settings, communicator)),
      device_kind_(device.kind()),
      device_name_(device.name()),
      floors_(communicator, settings, device.kind()) {}

void Suite::add(const std::string& name, const std::string& label, Make make) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [this, name, label, make = std::move(make)](benchmark::State& state) {
                                 run(state, name, make);
                                 state.SetLabel(label);
                               })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

void Suite::run(benchmark::State& state, const std::string& name, const Make& make) {
  Prepared& now = prepared(name, make);
  if (now.error.empty()) return measure(state, now);
  has_failed_ = true;
  state.SkipWithError(now.error.c_str());
}

Suite::Prepared& Suite::prepared(const std::string& name, const Make& make) {
  if (prepared_ && prepared_->name == name) return *prepared_;
  prepared_ = nullptr;  // frees its memory first
  std::shared_ptr<Prepared> next(new Prepared{.name = name, .device = apps::device_of(settings_, communicator_)});
  if (exchanges_tensors_) next->connection.emplace(communicator_, next->device, settings_.dist.transport);
  next->work = make(next->device);
  const Work& work = next->work;
  next->error = error_on_any_rank(work);
  if (next->error.empty() && !work.plain)
    next->floor_time = floors_.time({work.bytes, work.flops, work.range, work.flops_type});
  if (next->error.empty() && !work.prepare) next->times = times_of(*next);
  prepared_ = next;
  return *prepared_;
}

/// The second look, at many runs, sees a GPU's time without that of the start and the wait.
std::int64_t Suite::times_of(Prepared& prepared) const {
  const std::int64_t times = times_at_once(prepared.device, largest(time(prepared, prepared.work.run, 1)));
  if (device_kind_ == Device::Kind::cpu || times == 1) return times;
  const double seconds = largest(time(prepared, prepared.work.run, times));
  return times_at_once(prepared.device, seconds / static_cast<double>(times));
}

std::string Suite::error_on_any_rank(const Work& work) const {
  std::string error;
  try {
    if (work.prepare) work.prepare();
    work.run();
    work.check();
  } catch (const Error& wrong) {
    error = wrong.what();
  }
  const std::vector<std::string> errors = communicator_.all_gather(error, "the checks of a benchmark");
  for (std::size_t rank = 0; rank < errors.size(); ++rank)
    if (!errors[rank].empty()) return fmt::format("rank {}: {}", rank, errors[rank]);
  return {};
}

Suite::RankTimes Suite::time(Prepared& prepared, const std::function<void()>& run, std::int64_t times) const {
  const Work& work = prepared.work;
  if (work.prepare) work.prepare();
  wait_for(prepared.device);
  communicator_.barrier("a benchmark");
  const double elapsed = seconds_of(prepared.device, run, times);
  const double mine = work.takes_part ? elapsed : 0;
  return communicator_.all_gather(std::span(&mine, 1), "the times of a benchmark");
}

void Suite::measure(benchmark::State& state, Prepared& prepared) {
  const Work& work = prepared.work;
  const auto times = static_cast<double>(prepared.times);
  RankTimes totals(communicator_.size());
  double total = 0, fastest = std::numeric_limits<double>::infinity(), fastest_plain = fastest;
  while (state.KeepRunningBatch(prepared.times)) {
    const RankTimes of_ranks = time(prepared, work.run, prepared.times);
    state.SetIterationTime(largest(of_ranks));
    total += largest(of_ranks);
    fastest = std::min(fastest, largest(of_ranks) / times);
    add_to(totals, of_ranks);
    if (work.plain)
      fastest_plain = std::min(fastest_plain, largest(time(prepared, work.plain, prepared.times)) / times);
  }
  const auto slowest_rank = std::ranges::max_element(totals) - totals.begin();
  const double floor = work.plain ? fastest_plain : prepared.floor_time;
  benchmark::UserCounters& counters = state.counters;
  counters["bytes"] = work.bytes;
  counters["flops"] = work.flops;
  counters["fastest"] = fastest;
  if (floor > 0) {
    counters["floor_time"] = floor;
    counters["share_of_floor"] = floor / fastest;
  }
  counters["slowest_rank"] = static_cast<double>(slowest_rank);
  counters["imbalance"] = totals[slowest_rank] / median(totals);
  if (work.count) work.count(counters, total / static_cast<double>(state.iterations()));
}

}  // namespace mtp::bench
