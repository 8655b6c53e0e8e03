#pragma once

#include <string>
#include <vector>

#include "mtp/checkpoint/run_state.h"
#include "mtp/checkpoint/state.h"
#include "mtp/parallel/communicator.h"

namespace mtp::checkpoint {

/// The fingerprints of the files that the settings name and that are there: the ranks share the reading. Collective.
Fingerprints take_fingerprints(const Settings& settings, const parallel::Communicator& communicator);

/// Those that a checkpoint's run began with.
Fingerprints fingerprints_of(const State& state);

/// Throws UsageError that names a file of which both have another fingerprint, unless `allowed_changes` has "data" or
/// "model". A model's directory that is gone is no change: a checkpoint holds what it needs of it.
void check_fingerprints(const Fingerprints& before, const Fingerprints& now,
                        const std::vector<std::string>& allowed_changes);

}  // namespace mtp::checkpoint
