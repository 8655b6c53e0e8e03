#pragma once

#include "mtp/core/settings.h"

namespace mtp::apps {

/// `mtp-train --check`: what a run checks at its start, but on any machine, by one process, without a GPU and without
/// writing. Prints a line for each thing that is in order; throws the error that the run would end with.
void check_run(const Settings& settings);

}  // namespace mtp::apps
