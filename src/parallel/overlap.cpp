#include "mtp/parallel/overlap.h"

#include <utility>

#include "mtp/parallel/sharded_unit.h"

namespace mtp::parallel {

void Overlap::begin() {
  is_on_ = true;
  order_ = std::exchange(acquired_, {});
  next_ = 0;
}

void Overlap::end() {
  while (!waiting_.empty()) add_what_waits();
  for (ShardedUnit* unit : order_) unit->drop_unused();
  next_ = order_.size();
  is_on_ = false;
}

void Overlap::acquired(ShardedUnit& unit) {
  if (!is_on_) return;
  acquired_.push_back(&unit);
  if (!is_next(unit)) {
    for (ShardedUnit* other : order_) other->drop_unused();
    next_ = order_.size();
  } else if (++next_ < order_.size()) {
    order_[next_]->prefetch();
  }
}

void Overlap::add_later(std::function<void()> add) {
  if (!is_on_) return add();
  add_what_waits();
  waiting_.push_back(std::move(add));
}

void Overlap::add_what_waits() {
  // What these put off in turn comes after them all.
  for (const std::function<void()>& add : std::exchange(waiting_, {})) add();
}

}  // namespace mtp::parallel
