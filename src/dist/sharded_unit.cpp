#include "mtp/dist/sharded_unit.h"

#include <algorithm>

namespace mtp::dist {

namespace {

constexpr std::int64_t smallest_block = 4096;
constexpr std::int64_t member_alignment = 16;  // a member starts on a cache line

std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

UnitLayout::UnitLayout(std::string name, bool trained, std::vector<Member> members)
    : name_(std::move(name)), trained_(trained), members_(std::move(members)) {
  const bool is_table = members_.size() == 1 && members_[0].shape.size() == 2;
  const std::int64_t unit_of_block = is_table ? members_[0].shape[1] : 1;
  block_ = round_up(smallest_block, unit_of_block);
  std::int64_t end = 0;
  for (Member& member : members_) {
    member.offset = round_up(end, member_alignment);
    end = member.offset + member.elements();
  }
  blocks_ = (end + block_ - 1) / block_;
}

ShardedUnit::ShardedUnit(UnitLayout layout, Sharding& sharding) : layout_(std::move(layout)), sharding_(sharding) {
  const Shape shape{layout_.shard_elements(sharding_.communicator.size())};
  master_ = sharding_.device.zeros(shape);
  if (!trained()) return;
  moment1_ = sharding_.device.zeros(shape);
  moment2_ = sharding_.device.zeros(shape);
}

void ShardedUnit::acquire() {
  if (users_++ == 0) values_ = gather(master_);
}

void ShardedUnit::release() {
  MTP_ASSERT(users_ > 0);
  if (--users_ == 0) values_ = Tensor();
}

Tensor ShardedUnit::value(std::size_t index) const {
  MTP_ASSERT(!values_.empty());
  return member(values_, index);
}

Tensor ShardedUnit::gradient(std::size_t index) {
  MTP_ASSERT(trained());
  if (gradients_.empty()) gradients_ = sharding_.device.zeros({master_.elements() * sharding_.communicator.size()});
  return member(gradients_, index);
}

void ShardedUnit::reduce_gradients() {
  Device& device = sharding_.device;
  const Communicator& communicator = sharding_.communicator;
  if (gradients_.empty()) gradients_ = device.zeros({master_.elements() * communicator.size()});
  Tensor mine = std::exchange(gradients_, Tensor());
  const std::int64_t first = sharding_.first_micro_batch;
  if (communicator.size() == 1) {
    sum_.add(device, std::move(mine), first, sharding_.micro_batches);
  } else if (sharding_.reduction == Reduction::fast) {
    const Tensor sum = device.empty(master_.shape());
    communicator.reduce_scatter(mine, sum);
    sum_.add(device, sum, first / communicator.size(), sharding_.micro_batches / communicator.size());
  } else {
    const Tensor slices = device.empty(mine.shape());
    communicator.exchange(mine, slices, layout_.block());
    for (std::int64_t r = 0; r < communicator.size(); ++r)
      sum_.add(device, slices.slice(r * master_.elements(), master_.shape()), first + r, sharding_.micro_batches);
  }
}

std::vector<ShardedUnit::Piece> ShardedUnit::pieces() const {
  const std::int64_t begin = sharding_.communicator.rank() * master_.elements(), end = begin + master_.elements();
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < layout_.members().size(); ++i) {
    const UnitLayout::Member& member = layout_.members()[i];
    const std::int64_t from = std::max(begin, member.offset), to = std::min(end, member.offset + member.elements());
    if (from < to) pieces.push_back({i, from - member.offset, to - from, from - begin});
  }
  return pieces;
}

Tensor ShardedUnit::gather(const Tensor& shard) const {
  if (sharding_.communicator.size() == 1) return shard;
  const Tensor whole = sharding_.device.empty({shard.elements() * sharding_.communicator.size()});
  sharding_.communicator.gather(shard, whole, layout_.block());
  return whole;
}

Tensor ShardedUnit::member(const Tensor& whole, std::size_t index) const {
  const UnitLayout::Member& member = layout_.members()[index];
  return whole.slice(member.offset, member.shape);
}

}  // namespace mtp::dist
