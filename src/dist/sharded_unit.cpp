#include "mtp/dist/sharded_unit.h"

#include <algorithm>
#include <utility>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"

namespace mtp::dist {

namespace {

constexpr std::int64_t smallest_block = 4096;
constexpr std::int64_t member_alignment = 16;  // a member starts on a cache line

/// The lists one after another.
std::vector<std::int64_t> joined(const std::vector<std::vector<std::int64_t>>& lists) {
  std::vector<std::int64_t> all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

UnitLayout::UnitLayout(std::string name, bool trained, std::vector<Member> members)
    : name_(std::move(name)), trained_(trained), members_(std::move(members)) {
  const std::int64_t unit_of_block = is_table() ? members_[0].shape[1] : 1;
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
  const auto moments = [&] {
    return sharding_.moments_on_host ? sharding_.device.zeros_on_host(shape, sharding_.moment_dtype)
                                     : sharding_.device.zeros(shape, sharding_.moment_dtype);
  };
  moment1_ = moments();
  moment2_ = moments();
}

void ShardedUnit::acquire() {
  if (users_++ == 0) values_ = gather(in_compute_dtype());
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

void ShardedUnit::add_row_gradients(const RowGradients& rows) {
  MTP_ASSERT(trained() && !row_gradients_);
  row_gradients_ = rows;
}

Tensor ShardedUnit::rows(const Tensor& ids) {
  Device& device = sharding_.device;
  const Tensor table = as_table(master_);
  const DType dtype = sharding_.compute_dtype;
  const Tensor result = device.empty({ids.elements(), table.size(1)}, dtype);
  if (sharding_.communicator.size() == 1) {
    ops::lookup_forward(device, table, ids, 1, result);
    return result;
  }
  const Routes routes = route(ids, -1);
  const std::vector<Ids> wanted = sharding_.communicator.exchange(routes.ids, layout_.name());
  const Ids wanted_here = joined(wanted);
  const Tensor mine = device.empty({static_cast<std::int64_t>(wanted_here.size()), table.size(1)}, dtype);
  ops::lookup_forward(device, table, device.from_host(local(wanted_here)), 1, mine);
  const Tensor answers = sharding_.communicator.exchange_rows(device, mine, wanted, routes.ids, layout_.name());
  // Answers come owner by owner: back to the order of the ids.
  Ids answer_of(static_cast<std::size_t>(ids.elements()));
  std::int64_t answer = 0;
  for (const std::int64_t asked : joined(routes.positions)) answer_of[asked] = answer++;
  ops::lookup_forward(device, answers, device.from_host(answer_of), 1, result);
  return result;
}

void ShardedUnit::reduce_gradients() {
  const std::vector<RowGradients> rows = exchange_row_gradients();
  Tensor mine = std::exchange(gradients_, Tensor());
  const bool only_rows = mine.empty() && !rows.empty();
  if (mine.empty() && !only_rows) mine = sharding_.device.zeros({master_.elements() * sharding_.communicator.size()});
  if (sharding_.reduction == Reduction::fast)
    reduce_fast(mine, rows);
  else
    reduce_ordered(std::move(mine), rows);
}

void ShardedUnit::reduce_ordered(Tensor mine, const std::vector<RowGradients>& rows) {
  Device& device = sharding_.device;
  const std::int64_t ranks = sharding_.communicator.size(), first = sharding_.first_micro_batch,
                     count = sharding_.micro_batches;
  const bool dense = !mine.empty();
  if (dense && ranks > 1) {
    const Tensor slices = device.empty(mine.shape());
    sharding_.communicator.exchange(mine, slices, layout_.block(), layout_.name());
    mine = slices;
  }
  for (std::int64_t r = 0; r < ranks; ++r) {
    if (!dense) {
      sum_.add_rows(device, rows[r], as_table(master_).shape(), first + r, count);
      continue;
    }
    Tensor leaf = ranks == 1 ? std::exchange(mine, Tensor()) : mine.slice(r * master_.elements(), master_.shape());
    if (!rows.empty()) add(rows[r], leaf);
    sum_.add(device, std::move(leaf), first + r, count);
  }
}

void ShardedUnit::reduce_fast(const Tensor& mine, const std::vector<RowGradients>& rows) {
  const std::int64_t ranks = sharding_.communicator.size();
  Tensor sum = sharding_.device.zeros(master_.shape());
  if (!mine.empty()) sharding_.communicator.reduce_scatter(mine, sum, layout_.name());
  for (const RowGradients& from_rank : rows) add(from_rank, sum);
  sum_.add(sharding_.device, std::move(sum), sharding_.first_micro_batch / ranks, sharding_.micro_batches / ranks);
}

std::vector<RowGradients> ShardedUnit::exchange_row_gradients() {
  if (!row_gradients_) return {};
  const RowGradients mine = *std::exchange(row_gradients_, std::nullopt);
  Device& device = sharding_.device;
  const Routes routes = route(mine.ids, mine.skip);
  const Ids positions = joined(routes.positions);
  const Tensor sent = device.empty({static_cast<std::int64_t>(positions.size()), mine.gradients.size(1)});
  ops::lookup_forward(device, mine.gradients, device.from_host(positions), mine.factor, sent);

  const std::vector<Ids> ids =
      routes.ids.size() == 1 ? routes.ids : sharding_.communicator.exchange(routes.ids, layout_.name());
  const Tensor received =
      ids.size() == 1 ? sent : sharding_.communicator.exchange_rows(device, sent, routes.ids, ids, layout_.name());
  std::vector<RowGradients> by_rank;
  std::int64_t begin = 0;
  for (const Ids& from_rank : ids) {
    const auto count = static_cast<std::int64_t>(from_rank.size()), width = received.size(1);
    by_rank.push_back({device.from_host(local(from_rank)), received.slice(begin * width, {count, width})});
    begin += count;
  }
  return by_rank;
}

void ShardedUnit::add(const RowGradients& rows, const Tensor& shard) {
  ops::lookup_backward(sharding_.device, rows.gradients, rows.ids, rows.factor, rows.skip, as_table(shard));
}

Tensor ShardedUnit::as_table(const Tensor& shard) const {
  MTP_ASSERT(layout_.is_table());
  const std::int64_t width = layout_.members()[0].shape[1];
  return shard.view({shard.elements() / width, width});
}

ShardedUnit::Routes ShardedUnit::route(const Tensor& ids, std::int64_t skip) const {
  const Ids host = sharding_.device.ids_to_host(ids);
  const std::int64_t rows_of_shard = as_table(master_).size(0);
  Routes routes{std::vector<Ids>(sharding_.communicator.size()), std::vector<Ids>(sharding_.communicator.size())};
  for (std::size_t i = 0; i < host.size(); ++i) {
    if (host[i] == skip) continue;
    MTP_ASSERT(host[i] >= 0 && host[i] < layout_.members()[0].shape[0]);
    const std::int64_t owner = host[i] / rows_of_shard;
    routes.ids[owner].push_back(host[i]);
    routes.positions[owner].push_back(static_cast<std::int64_t>(i));
  }
  return routes;
}

ShardedUnit::Ids ShardedUnit::local(Ids ids) const {
  const std::int64_t first = as_table(master_).size(0) * sharding_.communicator.rank();
  for (std::int64_t& id : ids) id -= first;
  return ids;
}

std::vector<ShardedUnit::Piece> ShardedUnit::pieces(int rank) const {
  const std::int64_t begin = rank * master_.elements(), end = begin + master_.elements();
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < layout_.members().size(); ++i) {
    const UnitLayout::Member& member = layout_.members()[i];
    const std::int64_t from = std::max(begin, member.offset), to = std::min(end, member.offset + member.elements());
    if (from < to) pieces.push_back({i, from - member.offset, to - from, from - begin});
  }
  return pieces;
}

const Tensor& ShardedUnit::in_compute_dtype() {
  if (master_.dtype() == sharding_.compute_dtype) return master_;
  if (rounded_.empty()) {
    rounded_ = sharding_.device.empty(master_.shape(), sharding_.compute_dtype);
    ops::convert(sharding_.device, master_, rounded_);
  }
  return rounded_;
}

Tensor ShardedUnit::gather(const Tensor& shard) const {
  if (sharding_.communicator.size() == 1) return shard;
  const Tensor whole = sharding_.device.empty({shard.elements() * sharding_.communicator.size()}, shard.dtype());
  sharding_.communicator.gather(shard, whole, layout_.block(), layout_.name());
  return whole;
}

Tensor ShardedUnit::member(const Tensor& whole, std::size_t index) const {
  const UnitLayout::Member& member = layout_.members()[index];
  return whole.slice(member.offset, member.shape);
}

}  // namespace mtp::dist
