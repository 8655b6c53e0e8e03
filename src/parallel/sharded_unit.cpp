#include "mtp/parallel/sharded_unit.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/tensor/profile.h"

namespace mtp::parallel {

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

/// The largest block, up to the smallest of other units, that divides the matrices of each expert.
std::int64_t block_of_experts(const std::vector<UnitLayout::Member>& members) {
  std::int64_t common = 0;
  for (const UnitLayout::Member& member : members) common = std::gcd(common, member.elements() / member.shape[0]);
  const std::int64_t step = common % member_alignment == 0 ? member_alignment : 1;
  std::int64_t block = smallest_block;
  while (common % block != 0) block -= step;
  return block;
}

}  // namespace

UnitLayout::UnitLayout(std::string name, bool trained, std::vector<Member> members, DType dtype, int expert_parts)
    : name_(std::move(name)),
      trained_(trained),
      dtype_(dtype),
      members_(std::move(members)),
      expert_parts_(expert_parts) {
  MTP_ASSERT(!trained || dtype == DType::f32);
  const std::int64_t unit_of_block = is_table() ? members_[0].shape[1] : 1;
  block_ = expert_parts_ > 0 ? block_of_experts(members_) : round_up(smallest_block, unit_of_block);
  std::int64_t end = 0;
  for (Member& member : members_) {
    member.offset = round_up(end, expert_parts_ > 0 ? block_ : member_alignment);
    end = member.offset + num_elements(part_of(member));
  }
  blocks_ = (end + block_ - 1) / block_;
}

Shape UnitLayout::part_of(const Member& member) const {
  if (parts() == 1) return member.shape;
  MTP_ASSERT(member.shape[0] % parts() == 0);
  Shape part = member.shape;
  part[0] /= parts();
  return part;
}

ShardedUnit::ShardedUnit(UnitLayout layout, Sharding& sharding)
    : layout_(std::move(layout)),
      sharding_(sharding),
      ranks_(layout_.parts() > 1 ? sharding.experts->same_part() : sharding.communicator),
      sources_(layout_.parts()) {
  const Shape shape{layout_.shard_elements(ranks_.size())};
  master_ = sharding_.device.zeros(shape, layout_.dtype(), MemoryUse::weights);
  if (!trained()) return;
  const auto moments = [&] {
    return sharding_.moments_on_host ? sharding_.device.zeros_on_host(shape, sharding_.moment_dtype, MemoryUse::moments)
                                     : sharding_.device.zeros(shape, sharding_.moment_dtype, MemoryUse::moments);
  };
  moment1_ = moments();
  moment2_ = moments();
}

void Sharding::begin_micro_batches(std::int64_t first) {
  first_micro_batch = first;
  if (communicator.size() > 1 && communicator.transport().overlaps()) overlap.begin();
}

void Sharding::end_micro_batches() { overlap.end(); }

void ShardedUnit::acquire() {
  if (users_++ > 0) return;
  sharding_.device.profile().begin_part(layout_.name());
  if (values_.empty()) start_gather();
  finish_gather();
  sharding_.overlap.acquired(*this);
}

void ShardedUnit::release() {
  MTP_ASSERT(users_ > 0);
  if (--users_ > 0) return;
  sharding_.device.profile().end_part(layout_.name());
  if (!sharding_.overlap.is_next(*this)) values_ = Tensor();
}

void ShardedUnit::prefetch() {
  if (values_.empty()) start_gather();
}

void ShardedUnit::drop_unused() {
  if (users_ > 0) return;
  finish_gather();
  values_ = Tensor();
}

void ShardedUnit::start_gather() {
  const Tensor shard = in_compute_dtype();
  if (ranks_.size() == 1) {
    values_ = shard;
    return;
  }
  values_ = sharding_.device.empty({buffer_elements()}, shard.dtype(), MemoryUse::gathered);
  gather_ = ranks_.transport().gather(shard, values_, layout_.block(), layout_.name());
  gathered_shard_ = shard;
}

void ShardedUnit::finish_gather() {
  gather_.finish();
  gathered_shard_ = Tensor();
}

Tensor ShardedUnit::value(std::size_t index) const {
  MTP_ASSERT(!values_.empty());
  return part_of_member(values_, index);
}

Tensor ShardedUnit::gradient(std::size_t index, std::size_t source) {
  MTP_ASSERT(trained());
  if (gradients_.empty()) gradients_ = zero_gradients();
  const std::int64_t begin = static_cast<std::int64_t>(source) * buffer_elements();
  return part_of_member(gradients_.slice(begin, {buffer_elements()}), index);
}

Tensor ShardedUnit::zero_gradients() const {
  return sharding_.device.zeros({sources_ * buffer_elements()}, DType::f32, MemoryUse::gradients);
}

void ShardedUnit::add_row_gradients(const Tokens& tokens, const Tensor& gradients, float factor) {
  MTP_ASSERT(trained() && !token_gradients_);
  token_gradients_ = {tokens, gradients, factor};
}

Tensor ShardedUnit::rows(const Tokens& tokens) {
  Device& device = sharding_.device;
  const Tensor table = as_table(master_);
  const DType dtype = sharding_.compute_dtype;
  const Tensor result = device.empty({tokens.ids.elements(), table.size(1)}, dtype);
  if (sharding_.communicator.size() == 1) {
    ops::lookup_forward(device, table, tokens.ids, 1, result);
    return result;
  }
  const Routes routes = route(tokens.host, -1, owners());
  const std::vector<Ids> wanted = sharding_.communicator.exchange(routes.ids, layout_.name());
  const Ids wanted_here = joined(wanted);
  const Tensor mine =
      device.empty({static_cast<std::int64_t>(wanted_here.size()), table.size(1)}, dtype, MemoryUse::communication);
  ops::lookup_forward(device, table, device.from_host(local(wanted_here, owners())), 1, mine);
  const Tensor answers = sharding_.communicator.exchange_rows(device, mine, wanted, routes.ids, layout_.name());
  // Answers come owner by owner: back to the order of the ids.
  Ids answer_of(tokens.host.size());
  std::int64_t answer = 0;
  for (const std::int64_t asked : joined(routes.positions)) answer_of[asked] = answer++;
  ops::lookup_forward(device, answers, device.from_host(answer_of), 1, result);
  return result;
}

void ShardedUnit::reduce_gradients() {
  Tensor mine = std::exchange(gradients_, Tensor());
  const bool is_dense = !mine.empty() || !token_gradients_, is_ordered = sharding_.reduction == Reduction::ordered;
  const std::vector<RowGradients> rows = exchange_row_gradients(is_dense && is_ordered ? adders() : owners());
  if (is_dense && mine.empty()) mine = zero_gradients();
  if (!is_ordered)
    reduce_fast(mine, rows);
  else if (is_dense)
    reduce_dense(std::move(mine), rows);
  else
    reduce_rows(rows);
}

ShardedUnit::Division ShardedUnit::owners() const {
  Division all{std::vector<int>(static_cast<std::size_t>(ranks_.size())), 1, ranks_.rank()};
  std::iota(all.ranks.begin(), all.ranks.end(), 0);
  return all;
}

ShardedUnit::Division ShardedUnit::adders() const {
  if (!groups_add_first()) return owners();
  const int rank = sharding_.communicator.rank(), size = static_cast<int>(group_size);
  Division group{std::vector<int>(group_size), sharding_.communicator.size() / group_size, rank % size};
  std::iota(group.ranks.begin(), group.ranks.end(), rank / size * size);
  return group;
}

bool ShardedUnit::groups_add_first() const {
  const Communicator& communicator = sharding_.communicator;
  return sources_ == 1 && communicator.nodes() > 1 &&
         communicator.nodes_hold_whole_groups(static_cast<int>(group_size));
}

void ShardedUnit::reduce_dense(Tensor mine, const std::vector<RowGradients>& rows) {
  const std::int64_t first = sharding_.first_micro_batch;
  if (sharding_.communicator.size() == 1) {
    if (!rows.empty()) add(rows[0], mine);
    sum_.add(sharding_.device, std::move(mine), first, sharding_.micro_batches);
    return;
  }
  if (ranks_.size() == 1) return add_leaves(mine, rows, first);
  const Division division = adders();
  const Tensor slices = sharding_.device.empty(mine.shape(), DType::f32, MemoryUse::communication);
  std::vector<Transfer> exchanges;
  for (std::int64_t source = 0; source < sources_; ++source) {
    const auto of_source = [&](const Tensor& all) {
      return all.slice(source * buffer_elements(), {buffer_elements()});
    };
    exchanges.push_back(ranks_.transport().exchange(of_source(mine), of_source(slices), layout_.block(),
                                                    {division.ranks, division.ranks}, layout_.name()));
  }
  sharding_.overlap.add_later([this, slices, rows, first, exchanges]() mutable {
    for (Transfer& exchange : exchanges) exchange.finish();
    if (groups_add_first())
      add_groups(slices, rows, first);
    else
      add_leaves(slices, rows, first);
  });
}

void ShardedUnit::add_leaves(const Tensor& slices, const std::vector<RowGradients>& rows, std::int64_t first) {
  for (std::int64_t r = 0; r < sharding_.communicator.size(); ++r) {
    const std::int64_t sender = r / sources_, source = r % sources_;
    const Tensor leaf = slices.slice(source * buffer_elements() + sender * master_.elements(), master_.shape());
    if (!rows.empty()) add(rows[r], leaf);
    sum_.add(sharding_.device, leaf, first + r, sharding_.micro_batches);
  }
}

void ShardedUnit::add_groups(const Tensor& slices, const std::vector<RowGradients>& rows, std::int64_t first) {
  Device& device = sharding_.device;
  const Division group = adders();
  const std::int64_t elements = group.shards * master_.elements(), groups = sharding_.communicator.size() / group_size;
  OrderedSum group_sum;  // for the owners of this rank's shards, one after another
  for (std::int64_t m = 0; m < group_size; ++m) {
    const Tensor leaf = slices.slice(m * elements, {elements});
    if (!rows.empty()) add(rows[m], leaf);
    group_sum.add(device, leaf, m, group_size);
  }
  Transport::Peers peers;  // this rank's owners; and who has added up for this rank, in each group
  for (std::int64_t k = 0; k < groups; ++k) {
    peers.to.push_back(static_cast<int>(group.place * group.shards + k));
    peers.from.push_back(static_cast<int>(k * group_size + sharding_.communicator.rank() / group.shards));
  }
  const Tensor sums = device.empty({elements}, DType::f32, MemoryUse::communication);
  Transfer exchange =
      sharding_.communicator.transport().exchange(group_sum.total(), sums, layout_.block(), peers, layout_.name());
  sharding_.overlap.add_later([this, sums, first, groups, exchange]() mutable {
    exchange.finish();
    for (std::int64_t k = 0; k < groups; ++k)
      sum_.add_group(sharding_.device, sums.slice(k * master_.elements(), master_.shape()), first / group_size + k);
  });
}

void ShardedUnit::reduce_rows(const std::vector<RowGradients>& rows) {
  for (std::int64_t r = 0; r < std::ssize(rows); ++r)
    sum_.add_rows(sharding_.device, rows[r], as_table(master_).shape(), sharding_.first_micro_batch + r,
                  sharding_.micro_batches);
}

void ShardedUnit::reduce_fast(const Tensor& mine, const std::vector<RowGradients>& rows) {
  const std::int64_t ranks = sharding_.communicator.size(), step = sharding_.first_micro_batch / ranks;
  const Tensor sum = sharding_.device.zeros(master_.shape(), DType::f32, MemoryUse::gradient_sums);
  Transfer exchange;
  if (!mine.empty()) {
    const Tensor all = mine.slice(0, {buffer_elements()});
    for (std::int64_t source = 1; source < sources_; ++source)
      ops::accumulate(sharding_.device, mine.slice(source * buffer_elements(), all.shape()), all);
    exchange = ranks_.transport().reduce_scatter(all, sum, layout_.name());
  }
  sharding_.overlap.add_later([this, sum, rows, step, ranks, exchange]() mutable {
    exchange.finish();
    for (const RowGradients& from_rank : rows) add(from_rank, sum);
    sum_.add(sharding_.device, std::move(sum), step, sharding_.micro_batches / ranks);
  });
}

std::vector<RowGradients> ShardedUnit::exchange_row_gradients(const Division& division) {
  if (!token_gradients_) return {};
  const TokenGradients mine = *std::exchange(token_gradients_, std::nullopt);
  Device& device = sharding_.device;
  const std::span<const std::int64_t> all = mine.tokens.host;
  const Routes routes = route(all.first(mine.tokens.count()), mine.tokens.fill, division);
  const Ids positions = joined(routes.positions);
  const Tensor sent = device.empty({static_cast<std::int64_t>(positions.size()), mine.gradients.size(1)}, DType::f32,
                                   MemoryUse::communication);
  ops::lookup_forward(device, mine.gradients, device.from_host(positions), mine.factor, sent);

  const std::vector<Ids> ids =
      routes.ids.size() == 1 ? routes.ids : sharding_.communicator.exchange(routes.ids, layout_.name());
  const Tensor received =
      ids.size() == 1 ? sent : sharding_.communicator.exchange_rows(device, sent, routes.ids, ids, layout_.name());
  std::vector<RowGradients> by_rank;
  std::int64_t begin = 0;
  for (const int rank : division.ranks) {
    const Ids& from_rank = ids[rank];
    const auto count = static_cast<std::int64_t>(from_rank.size()), width = received.size(1);
    by_rank.push_back({local(from_rank, division), received.slice(begin * width, {count, width})});
    begin += count;
  }
  return by_rank;
}

void ShardedUnit::add(const RowGradients& rows, const Tensor& shards) {
  ops::lookup_backward(sharding_.device, rows.gradients, sharding_.device.from_host(rows.rows), 1, -1,
                       as_table(shards));
}

Tensor ShardedUnit::as_table(const Tensor& shards) const {
  MTP_ASSERT(layout_.is_table());
  const std::int64_t width = layout_.members()[0].shape[1];
  return shards.view({shards.elements() / width, width});
}

ShardedUnit::Routes ShardedUnit::route(std::span<const std::int64_t> ids, std::int64_t skip,
                                       const Division& division) const {
  const std::int64_t rows_of_rank = rows_of_shard() * division.shards;
  Routes routes{std::vector<Ids>(sharding_.communicator.size()), std::vector<Ids>(sharding_.communicator.size())};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == skip) continue;
    MTP_ASSERT(ids[i] >= 0 && ids[i] < layout_.members()[0].shape[0]);
    const int rank = division.ranks[ids[i] / rows_of_rank];
    routes.ids[rank].push_back(ids[i]);
    routes.positions[rank].push_back(static_cast<std::int64_t>(i));
  }
  return routes;
}

ShardedUnit::Ids ShardedUnit::local(Ids ids, const Division& division) const {
  const std::int64_t first = rows_of_shard() * division.shards * division.place;
  for (std::int64_t& id : ids) id -= first;
  return ids;
}

std::vector<ShardedUnit::Piece> ShardedUnit::pieces(int rank) const {
  const std::int64_t part = rank % layout_.parts(), begin = rank / layout_.parts() * master_.elements(),
                     end = begin + master_.elements();
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < layout_.members().size(); ++i) {
    const UnitLayout::Member& member = layout_.members()[i];
    const std::int64_t held = member.elements() / layout_.parts();
    const std::int64_t from = std::max(begin, member.offset), to = std::min(end, member.offset + held);
    if (from < to) pieces.push_back({i, part * held + from - member.offset, to - from, from - begin});
  }
  return pieces;
}

std::vector<ShardedUnit::Run> ShardedUnit::runs(int rank) const {
  if (layout_.parts() == 1) return {{0, master_.elements(), rank * master_.elements()}};
  std::vector<Run> runs;
  for (const Piece& piece : pieces(rank)) {
    const std::int64_t first_of_member = layout_.members()[piece.member].offset * layout_.parts();
    runs.push_back({piece.position, piece.elements, first_of_member + piece.begin});
  }
  return runs;
}

Tensor ShardedUnit::in_compute_dtype() {
  if (master_.dtype() == sharding_.compute_dtype) return master_;
  if (!rounded_.empty()) return rounded_;
  const Tensor converted = sharding_.device.empty(master_.shape(), sharding_.compute_dtype,
                                                  trained() ? MemoryUse::rounded_weights : MemoryUse::gathered);
  ops::convert(sharding_.device, master_, converted);
  if (trained()) rounded_ = converted;
  return converted;
}

Tensor ShardedUnit::gather(const Tensor& shard) const {
  if (ranks_.size() == 1) return shard;
  const Tensor whole = sharding_.device.empty({buffer_elements()}, shard.dtype(), MemoryUse::gathered);
  ranks_.gather(shard, whole, layout_.block(), layout_.name());
  return whole;
}

void fill(Device& device, const Tensor& shard, const ShardedUnit::Piece& piece,
          const std::function<void(std::int64_t begin, std::span<float> values)>& read) {
  constexpr std::int64_t most = std::int64_t{1} << 24;  // elements that are in memory twice
  for (std::int64_t done = 0; done < piece.elements; done += most) {
    const Shape count{std::min(most, piece.elements - done)};
    std::vector<float> values(static_cast<std::size_t>(count[0]));
    read(piece.begin + done, values);
    device.write(values, shard.slice(piece.position + done, count));
  }
}

Tensor ShardedUnit::part_of_member(const Tensor& gathered, std::size_t index) const {
  const UnitLayout::Member& member = layout_.members()[index];
  return gathered.slice(member.offset, layout_.part_of(member));
}

Tensor ShardedUnit::member(const Tensor& gathered, std::size_t index) const {
  const Tensor part = part_of_member(gathered, index);
  if (layout_.parts() == 1) return part;
  const Tensor whole = sharding_.device.empty(layout_.members()[index].shape, part.dtype());
  sharding_.experts->group().gather(part, whole, layout_.block(), layout_.name());
  return whole;
}

}  // namespace mtp::parallel
