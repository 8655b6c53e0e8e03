#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/parallel/communicator.h"
#include "mtp/tensor/device.h"
#include "support/floors.h"

namespace mtp::bench {

/// What a benchmark times, done by every rank at once.
struct Work {
  std::function<void()> run;
  std::function<void()> check;             // throws Error where the first run's result is wrong
  std::function<void()> prepare = {};      // before each run, not timed
  double bytes = 0, flops = 0, range = 0;  // see Amount
  DType flops_type = DType::f32;
  /// The same by plain means, timed in turn with `run` as its floor; without it, `bytes` and `flops` give the floor.
  std::function<void()> plain = {};
  bool takes_part = true;  // this rank; false where `run` does nothing
  /// Adds counters of its own, from the seconds of a run: the mean over the timings.
  std::function<void(benchmark::UserCounters& counters, double seconds)> count = {};
};

/// The benchmarks of a program: Google Benchmark runs them on every rank, and what it is told is the time of the
/// slowest rank, so that all ranks do the same number of iterations.
///
/// Counters of each: bytes, flops, fastest (seconds of the fastest timing), floor_time (seconds, of the fastest too),
/// share_of_floor (floor_time / fastest), slowest_rank and imbalance (the slowest rank's time over the median one's).
/// Without bytes, flops and a plain counterpart there is no floor.
class Suite {
 public:
  using Make = std::function<Work(Device&)>;

  /// On the devices that `settings.run` asks for; `exchanges_tensors`: the ranks' devices are connected. Collective.
  Suite(parallel::Communicator& communicator, const Settings& settings, bool exchanges_tensors);

  const parallel::Communicator& communicator() const { return communicator_; }
  int threads() const { return threads_; }
  Device::Kind device_kind() const { return device_kind_; }
  const std::string& device_name() const { return device_name_; }
  Floors& floors() { return floors_; }

  /// `make` is called when the benchmark's turn comes; its device and tensors live until the next one's. A benchmark
  /// whose result is wrong on any rank is not timed, and makes the program fail.
  void add(const std::string& name, const std::string& label, Make make);

  bool has_failed() const { return has_failed_; }

 private:
  Suite(parallel::Communicator& communicator, const Settings& settings, bool exchanges_tensors, const Device& device);

  struct Prepared;
  /// Seconds on each rank.
  using RankTimes = std::vector<double>;

  void run(benchmark::State& state, const std::string& name, const Make& make);
  Prepared& prepared(const std::string& name, const Make& make);
  std::string error_on_any_rank(const Work& work) const;
  std::int64_t times_of(Prepared& prepared) const;
  RankTimes time(Prepared& prepared, const std::function<void()>& run, std::int64_t times) const;
  void measure(benchmark::State& state, Prepared& prepared);

  parallel::Communicator& communicator_;
  Settings settings_;
  bool exchanges_tensors_;
  int threads_;
  Device::Kind device_kind_;
  std::string device_name_;
  Floors floors_;
  std::shared_ptr<Prepared> prepared_;
  bool has_failed_ = false;
};

}  // namespace mtp::bench
