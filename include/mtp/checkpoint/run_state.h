#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "mtp/core/settings.h"

namespace mtp::checkpoint {

/// Checksums of the files that a run reads: "data.train", "data.validation", and "model.base/FILE" and
/// "model.drafter/FILE" for each file of the pair's directories.
using Fingerprints = std::map<std::string, std::string>;

/// What a run is beside its tensors.
struct RunDescription {
  Settings settings;  // resolved: nothing that matters is left to a default
  Fingerprints fingerprints;
  std::string device;  // and its libraries, by parallel::arithmetic_of
  int ranks = 1;
};

/// Where it is.
struct RunState {
  RunDescription run;
  std::int64_t step = 0;      // optimizer steps done
  std::int64_t epoch = 0;     // of the next item of the stream of samples
  std::int64_t position = 0;  // of that item in its epoch's order
  double lr = 0;              // of the next step, by the schedule
};

}  // namespace mtp::checkpoint
