#include "mtp/tensor/profile.h"

#include <algorithm>

#include "mtp/core/error.h"
#include "profile_clock.h"

namespace mtp {

Profile::Profile(std::unique_ptr<ProfileClock> clock) : clock_(std::move(clock)) {}
Profile::~Profile() = default;

Profile::Within::Within(Profile& profile, const char* name) : profile_(profile) {
  if (profile.clock_->shows_ranges()) push_range(name);
  ++profile_.depth_;
}

Profile::Within::~Within() {
  --profile_.depth_;
  if (profile_.clock_->shows_ranges()) pop_range();
}

std::size_t Profile::mark() { return clock_->mark(); }

void Profile::begin_part(const std::string& name) {
  parts_.push_back({name, clock_->shows_ranges() ? start_range(name.c_str()) : 0});
}

void Profile::end_part(const std::string& name) {
  const auto part = std::ranges::find(parts_.rbegin(), parts_.rend(), name, &Part::name);
  MTP_ASSERT(part != parts_.rend());
  if (clock_->shows_ranges()) end_range(part->range);
  parts_.erase(std::next(part).base());
}

void Profile::start() {
  MTP_ASSERT(depth_ == 0 && !is_on_);
  is_on_ = true;
}

void Profile::stop() {
  MTP_ASSERT(depth_ == 0 && is_on_);
  is_on_ = false;
  for (const Measured& one : measured_) {
    Total& total = totals_[{one.part, one.operation}];
    ++total.calls;
    total.seconds += clock_->seconds_between(one.begin, one.end);
  }
  measured_.clear();
  clock_->clear();
}

std::vector<Profile::Entry> Profile::entries() const {
  std::vector<Entry> entries;
  for (const auto& [name, total] : totals_) entries.push_back({name.first, name.second, total.calls, total.seconds});
  std::ranges::stable_sort(entries, std::ranges::greater(), &Entry::seconds);
  return entries;
}

}  // namespace mtp
