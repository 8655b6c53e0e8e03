#pragma once

#include "mtp/core/settings.h"

namespace mtp::apps {

/// `mtp-train --plan`: prints what the run would need; returns the exit code. Needs neither MPI nor a GPU.
int print_plan(const CommandLine& command);

}  // namespace mtp::apps
