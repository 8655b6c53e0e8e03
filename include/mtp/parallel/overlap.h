#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <vector>

namespace mtp::parallel {

class ShardedUnit;

/// Lets units be gathered, and gradients exchanged, while the device computes. A micro-batch acquires units in the
/// order of the one before: so each `acquire` starts the gather of the next one, and at most one unit is gathered ahead
/// of its use. A micro-batch that keeps to no such order gathers on demand. Gradients that have been exchanged are
/// added up when the next unit's are there. No number depends on any of this.
class Overlap {
 public:
  /// A micro-batch's forward and backward; outside of it nothing is done ahead of time or later.
  void begin();
  void end();
  bool is_on() const { return is_on_; }

  /// `unit` has its values; starts the gather of the next one.
  void acquired(ShardedUnit& unit);
  bool is_next(const ShardedUnit& unit) const { return next_ < order_.size() && order_[next_] == &unit; }

  /// Calls `add` with the next `add_later` or the end of the micro-batch; at once outside of one. In the order of these
  /// calls; `add` may make another.
  void add_later(std::function<void()> add);

 private:
  void add_what_waits();

  std::vector<ShardedUnit*> order_, acquired_;  // of the micro-batch before, and of this one so far
  std::size_t next_ = 0;                        // place in order_ of what is acquired next
  std::deque<std::function<void()>> waiting_;
  bool is_on_ = false;
};

}  // namespace mtp::parallel
