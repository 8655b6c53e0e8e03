// Stands in for the file of this name in the folder cuda.

#include "../profile_clock.h"

#include "mtp/core/error.h"

namespace mtp {

std::unique_ptr<ProfileClock> make_gpu_clock(CudaContext&) {
  MTP_ASSERT(false);
  return nullptr;
}

void push_range(const char*) {}
void pop_range() {}
std::uint64_t start_range(const char*) { return 0; }
void end_range(std::uint64_t) {}

}  // namespace mtp
