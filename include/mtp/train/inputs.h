#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mtp/checkpoint/ranking.h"
#include "mtp/checkpoint/run_state.h"
#include "mtp/checkpoint/state.h"
#include "mtp/core/settings.h"
#include "mtp/data/data_file.h"
#include "mtp/data/loader.h"
#include "mtp/data/sampler.h"
#include "mtp/model/pair.h"
#include "mtp/parallel/communicator.h"
#include "mtp/train/schedule.h"

namespace mtp::train {

/// What a run goes on from.
struct Resumption {
  const checkpoint::State& state;
  std::vector<std::string> allowed_changes;  // as ResumeLine has them

  bool allows(const char* change) const;
};

/// Everything that a run reads, opened and found to fit together, before anything is allocated or written.
class Inputs {
 public:
  /// Collective. Throws UsageError or Error, in one line, for what does not fit together. `from` is not kept.
  static Inputs open(const Settings& settings, const Device& device, const parallel::Communicator& communicator,
                     const std::optional<Resumption>& from = std::nullopt);

  /// The same by one process alone, before the job: all but what the ranks' devices decide, and the fingerprints, which
  /// only a resumed run compares.
  static Inputs check(const Settings& settings);

  /// With what they leave open filled in: a resumed run reads it back.
  const Settings& settings() const { return settings_; }
  const model::Pair& pair() const { return pair_; }
  const data::DataFile& data() const { return data_; }
  const std::optional<data::DataFile>& validation_data() const { return validation_data_; }
  const Schedule& schedule() const { return schedule_; }
  /// Of the data file and of the source pair.
  const checkpoint::Fingerprints& fingerprints() const { return fingerprints_; }
  /// What the bits of a run depend on beside all this: see parallel::arithmetic_of.
  const std::string& arithmetic() const { return arithmetic_; }

  std::int64_t first_step() const { return first_step_; }  // optimizer steps done before this start
  std::int64_t steps() const { return steps_; }            // of the whole run
  bool is_resumed() const { return is_resumed_; }
  /// Of what the run has validated before this start.
  const checkpoint::Ranking& ranking() const { return ranking_; }
  /// Where the run stands behind its last step, or ended before it by `validation.patience`.
  bool nothing_is_left() const;

  /// The order of the samples, and how this rank reads its share of them.
  data::Sampler sampler() const;
  data::Loader::Options reading() const;

 private:
  /// Checks all but the samples and the files' fingerprints.
  Inputs(const Settings& settings, const Device& device, std::string arithmetic, int rank, int ranks,
         const std::optional<Resumption>& from);
  void check_device(const Device& device, const Resumption& from) const;
  void check_fit(int ranks) const;
  void check_data(const data::DataFile& file) const;
  void fill_in_settings(Device::Kind device);
  /// Refuses a run that would need more memory than is available to each rank, and says what for.
  void check_memory(const Device& device, const parallel::Communicator& communicator, std::int64_t available) const;
  void compare_fingerprints(const std::optional<Resumption>& from);
  /// Reads this rank's share of the samples and returns how many of them have a label.
  std::int64_t check_samples(const data::DataFile& file) const;
  void check_export() const;
  void report_samples(const data::DataFile& file, std::int64_t with_labels) const;

  Settings settings_;
  std::string arithmetic_;
  int rank_, ranks_;
  std::int64_t first_step_;
  bool is_resumed_;
  data::DataFile data_;
  std::optional<data::DataFile> validation_data_;
  model::Pair pair_;
  std::int64_t steps_ = 0;
  Schedule schedule_;
  checkpoint::Ranking ranking_;
  checkpoint::Fingerprints fingerprints_;
};

}  // namespace mtp::train
