#pragma once

// The part of NVTX that src/tensor/cuda uses. EMULATED_RANGES names a file in which each range becomes a line when it
// begins and one when it ends.

#include <cstdint>

using nvtxRangeId_t = std::uint64_t;

int nvtxRangePushA(const char* name);
/// Ends the program with a message where none is open.
int nvtxRangePop();
nvtxRangeId_t nvtxRangeStartA(const char* name);
/// Ends the program with a message where it is not open.
void nvtxRangeEnd(nvtxRangeId_t id);
