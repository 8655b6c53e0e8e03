#pragma once

#include <cstdint>
#include <optional>

#include "mtp/checkpoint/run_directory.h"
#include "mtp/checkpoint/saver.h"
#include "mtp/data/loader.h"
#include "mtp/data/sampler.h"
#include "mtp/parallel/communicator.h"
#include "mtp/train/inputs.h"
#include "mtp/train/run_log.h"
#include "mtp/train/train_state.h"
#include "mtp/train/validation.h"

namespace mtp::train {

/// A run that has been opened, which trains a pair to its last step and writes a checkpoint of that. Collective.
class Trainer {
 public:
  /// Takes the run directory and loads the source pair, or what the checkpoint holds. Something must be left to do.
  /// Does not use `from` any longer. Throws DamagedCheckpoint before anything is changed.
  Trainer(Inputs inputs, Device& device, const parallel::Communicator& communicator,
          const std::optional<Resumption>& from = std::nullopt);

  enum class End { done, stopped };
  /// `stopped`: on a signal, with a checkpoint written.
  End run();

 private:
  const Settings& settings() const { return inputs_.settings(); }
  /// Loads the weights, and the moments of a resumed run; returns what checkpoints say of the run's source.
  checkpoint::Manifest load(const std::optional<Resumption>& from);
  checkpoint::Manifest fill_run_directory(const std::optional<Resumption>& from) const;
  End train();
  StepMetrics step(std::int64_t step);
  void skip(StepMetrics& metrics) const;
  /// Forward, backward and update; fills in losses and norm.
  void learn(const std::vector<data::MicroBatch>& batches, std::int64_t step, StepMetrics& metrics);
  /// Whether the pair is the best so far, by `checkpoint.keep_best`.
  bool validate(std::int64_t step);
  void save(std::int64_t step, bool run_ends);
  void export_pair() const;

  Device& device_;
  const parallel::Communicator& communicator_;
  Inputs inputs_;
  checkpoint::RunDirectory run_directory_;
  TrainState state_;
  checkpoint::Saver saver_;
  data::Sampler order_;
  data::Loader loader_;
  std::optional<Validation> validation_;  // where the settings ask for it
  checkpoint::Ranking ranking_;
  RunLog log_;
};

}  // namespace mtp::train
