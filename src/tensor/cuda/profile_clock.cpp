#include "../profile_clock.h"

#include <nvtx3/nvToolsExt.h>

#include <deque>

#include "context.h"
#include "event.h"

namespace mtp {

namespace {

/// Events of the device's stream, which are used again.
class GpuClock final : public ProfileClock {
 public:
  explicit GpuClock(CudaContext& context) : context_(context) {}

  std::size_t mark() override {
    if (used_ == events_.size()) events_.emplace_back(CudaEvent::Timing::on);
    events_[used_].record(context_.stream());
    return used_++;
  }
  double seconds_between(std::size_t begin, std::size_t end) const override {
    context_.wait(events_[end]);
    return events_[end].seconds_since(events_[begin]);
  }
  void clear() override { used_ = 0; }

 private:
  CudaContext& context_;
  std::deque<CudaEvent> events_;
  std::size_t used_ = 0;
};

}  // namespace

std::unique_ptr<ProfileClock> make_gpu_clock(CudaContext& context) { return std::make_unique<GpuClock>(context); }

void push_range(const char* name) { nvtxRangePushA(name); }
void pop_range() { nvtxRangePop(); }
std::uint64_t start_range(const char* name) { return nvtxRangeStartA(name); }
void end_range(std::uint64_t range) { nvtxRangeEnd(range); }

}  // namespace mtp
