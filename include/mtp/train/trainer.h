#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/checkpoint/run_directory.h"
#include "mtp/checkpoint/run_state.h"
#include "mtp/checkpoint/saver.h"
#include "mtp/core/settings.h"
#include "mtp/data/loader.h"
#include "mtp/dist/communicator.h"
#include "mtp/hf/pair.h"
#include "mtp/model/joint.h"
#include "mtp/model/parameters.h"
#include "mtp/train/metrics.h"
#include "mtp/train/optimizer.h"
#include "mtp/train/schedule.h"
#include "mtp/train/validation.h"

namespace mtp::train {

/// A run that has been checked and can start: what the settings, the pair and the data say together. Made before
/// anything is allocated or written.
struct Plan {
  Settings settings;
  std::int64_t steps = 0;
  std::int64_t micro_batches = 0;  // of a step, over all ranks
  Schedule schedule;
};

/// Throws UsageError or Error in one line for what does not fit together. `validation`: null without validation.
Plan make_plan(const Settings& settings, const hf::Pair& pair, const data::DataFile& data,
               const data::DataFile* validation, Device::Kind device, int ranks);

/// Throws UsageError where a new run would write over a checkpoint, or could not write its gradients.
void check_is_new(const Settings& settings);

/// What a run goes on from.
struct Resumption {
  const checkpoint::State& state;
  std::vector<std::string> allowed_changes;  // as ResumeLine has them
};

/// Trains a pair from its source, or on from a checkpoint, to its last step, and writes a checkpoint of that.
/// Collective.
class Trainer {
 public:
  /// Opens and checks everything, takes the run directory and loads the pair, or what the checkpoint holds: its tensors
  /// and what it keeps of the source pair. Does not use `from` any longer. Throws DamagedCheckpoint.
  Trainer(const Settings& settings, Device& device, const dist::Communicator& communicator,
          const std::optional<Resumption>& from = std::nullopt);

  enum class End { done, stopped };
  /// `stopped`: on a signal, with a checkpoint written.
  End run();

 private:
  bool is_finished() const { return first_step_ >= plan_.steps; }
  void check(const Settings& settings, const std::optional<Resumption>& from);
  void check_files(const std::optional<Resumption>& from);
  void start(const std::optional<Resumption>& from);
  void take_run_directory();
  void load(const std::optional<Resumption>& from);
  /// Returns what checkpoints say of the run's source.
  checkpoint::Manifest fill_run_directory(const std::optional<Resumption>& from);
  void save(std::int64_t step, bool run_ends);
  End train();
  StepMetrics step(std::int64_t step);
  void dump_gradients() const;

  Device& device_;
  const dist::Communicator& communicator_;
  std::string arithmetic_;
  std::unique_ptr<hf::Pair> pair_;
  std::unique_ptr<data::DataFile> data_, validation_data_;  // the second: null without validation
  Plan plan_;
  std::int64_t first_step_ = 0;  // optimizer steps done before this start
  bool is_resumed_ = false;
  checkpoint::Fingerprints fingerprints_;
  std::optional<checkpoint::RunDirectory> run_directory_;
  dist::Sharding sharding_;
  std::optional<model::Parameters> parameters_;
  std::optional<model::Joint> joint_;
  std::optional<Validation> validation_;
  std::optional<Optimizer> optimizer_;
  std::optional<data::Sampler> order_;
  std::optional<data::Loader> loader_;
  std::optional<checkpoint::Saver> saver_;
};

}  // namespace mtp::train
