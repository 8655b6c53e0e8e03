#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/graph/parameter.h"
#include "mtp/parallel/communicator.h"
#include "mtp/parallel/expert_ranks.h"
#include "mtp/parallel/ordered_sum.h"
#include "mtp/parallel/overlap.h"

namespace mtp::parallel {

/// Where the tensors of a unit lie in its flat buffer.
class UnitLayout {
 public:
  struct Member {
    std::string name;
    Shape shape;
    std::int64_t offset = 0;  // in elements, from the start of the buffer
    std::int64_t elements() const { return num_elements(shape); }
  };

  /// `dtype`: of the weights that ranks keep; only frozen ones may have another one than fp32. `expert_parts`: of a
  /// unit of experts' matrices, all [experts, …], so many ranks keep the experts between them, and the buffer holds the
  /// part of one of them; 0: no such unit.
  UnitLayout(std::string name, bool trained, std::vector<Member> members, DType dtype = DType::f32,
             int expert_parts = 0);

  const std::string& name() const { return name_; }
  bool trained() const { return trained_; }
  DType dtype() const { return dtype_; }
  const std::vector<Member>& members() const { return members_; }
  /// One matrix and nothing else: its rows can be looked up.
  bool is_table() const { return members_.size() == 1 && members_[0].shape.size() == 2; }
  /// How many ranks the unit is divided among before it is sharded.
  int parts() const { return std::max(expert_parts_, 1); }
  /// What the buffer holds of a member.
  Shape part_of(const Member& member) const;
  /// Elements of a block: what a shard is a multiple of, and what the norm is summed over. A unit that is one table
  /// has blocks of whole rows; an expert's matrix is whole blocks.
  std::int64_t block() const { return block_; }
  /// Blocks of the buffer that hold members, without padding to the number of ranks.
  std::int64_t blocks() const { return blocks_; }
  /// Elements of each rank's shard.
  std::int64_t shard_elements(int ranks) const { return (blocks_ + ranks - 1) / ranks * block_; }

 private:
  std::string name_;
  bool trained_;
  DType dtype_;
  std::vector<Member> members_;
  int expert_parts_;
  std::int64_t block_ = 0, blocks_ = 0;
};

/// What all units of a job share: the device, the ranks and how far the step is.
struct Sharding {
  Device& device;
  const Communicator& communicator;
  Reduction reduction = Reduction::ordered;
  std::int64_t micro_batches = 1;        // of a step, over all ranks
  std::int64_t first_micro_batch = 0;    // of the `communicator.size()` consecutive ones that the ranks work on now
  DType compute_dtype = DType::f32;      // of gathered values and rows
  DType moment_dtype = DType::f32;       // of AdamW's moments
  bool moments_on_host = false;          // where they lie: Device::zeros_on_host
  const ExpertRanks* experts = nullptr;  // who keeps which experts; null: all ranks share all of them
  Overlap overlap = {};

  /// A micro-batch on each rank: its forward and backward are between these two.
  void begin_micro_batches(std::int64_t first);
  void end_micro_batches();
};

/// A unit's parameters as one flat buffer of which each rank owns a shard, with the moments of the optimizer.
/// `acquire` gathers the buffer in the type that is computed with; gradients are fp32. `reduce_gradients` hands the
/// owners their slices, which they add up in the order of the micro-batches. Both are collective. Between
/// `Sharding::begin_micro_batches` and `end_micro_batches`, they communicate while the device computes.
///
/// Where the groups of micro-batches that are added up first are on one node each, and there are several nodes, a
/// group's ranks add up its gradients, each for an eighth of the owners, and only the groups' sums go to the owners.
class ShardedUnit final : public ParameterGroup {
 public:
  ShardedUnit(UnitLayout layout, Sharding& sharding);

  const UnitLayout& layout() const { return layout_; }
  DType compute_dtype() const { return sharding_.compute_dtype; }

  std::string name() const override { return layout_.name(); }
  bool trained() const override { return layout_.trained(); }
  void acquire() override;
  void release() override;
  void reduce_gradients() override;
  Tensor value(std::size_t index) const override;
  Tensor gradient(std::size_t index, std::size_t source = 0) override;
  const ExpertExchange* expert_exchange() const override { return sources_ > 1 ? sharding_.experts : nullptr; }
  /// Collective, like what adds the gradients of rows in `reduce_gradients`: ids go to the rows' owners, rows come
  /// back.
  Tensor rows(const Tokens& tokens) override;
  void add_row_gradients(const Tokens& tokens, const Tensor& gradients, float factor) override;

  /// Gathers the values ahead of `acquire`, and forgets them where nobody acquired them.
  void prefetch();
  void drop_unused();

  /// This rank's shard of the weights, in the layout's type; zero where the flat buffer is padding. Once the unit has
  /// been acquired, whoever changes it changes `rounded` too.
  const Tensor& master() const { return master_; }
  /// Of a trained unit, the master in the type that is computed with, which is what gathers: empty before the first
  /// `acquire`, or where the master itself has that type. A frozen one is converted whenever it is gathered, so that it
  /// is kept once.
  const Tensor& rounded() const { return rounded_; }
  const Tensor& moment1() const { return moment1_; }
  const Tensor& moment2() const { return moment2_; }
  /// This rank's shard of the step's summed gradient.
  const Tensor& gradient_sum() const { return sum_.total(); }
  /// After the update: the next step's forward needs its memory.
  void clear_gradient_sum() { sum_.clear(); }

  /// A part of a member that a rank's shard holds.
  struct Piece {
    std::size_t member = 0;
    std::int64_t begin = 0;  // element of the member
    std::int64_t elements = 0;
    std::int64_t position = 0;  // element of the shard
  };
  std::vector<Piece> pieces(int rank) const;
  std::vector<Piece> pieces() const { return pieces(sharding_.communicator.rank()); }  // of this rank
  /// Consecutive elements of a shard, whole blocks, and where the first of them stands in the unit as it is where every
  /// rank keeps all experts: what is numbered or added by elements goes by this. A shard is all of its runs, padding
  /// aside.
  struct Run {
    std::int64_t position = 0, elements = 0, first = 0;
  };
  std::vector<Run> runs(int rank) const;

  /// Any of the shards above, gathered on every rank that shares this one's part of the unit.   [ranks · shard]
  Tensor gather(const Tensor& shard) const;
  /// The whole of member `index`, of a gathered buffer. Collective.
  Tensor member(const Tensor& gathered, std::size_t index) const;

 private:
  using Ids = std::vector<std::int64_t>;
  /// Ids by the rank that they go to, and where in the list each stood.
  struct Routes {
    std::vector<Ids> ids, positions;
  };
  /// What `add_row_gradients` was given.
  struct TokenGradients {
    Tokens tokens;
    Tensor gradients;
    float factor;
  };
  /// Ranks that share a unit: shards, or as many of them as it takes, in a row for each. The leaves of a sum are
  /// exchanged among them.
  struct Division {
    std::vector<int> ranks;
    std::int64_t shards = 1;  // of each rank
    std::int64_t place = 0;   // of this rank among them
  };

  /// What a buffer holds of member `index`.
  Tensor part_of_member(const Tensor& gathered, std::size_t index) const;
  std::int64_t buffer_elements() const { return master_.elements() * ranks_.size(); }
  Tensor in_compute_dtype();
  /// For a micro-batch's gradients of the whole unit.
  Tensor zero_gradients() const;
  void start_gather();
  void finish_gather();
  /// One owner of each shard.
  Division owners() const;
  /// The ranks of this rank's group, if the groups add up their gradients first; else the owners.
  Division adders() const;
  bool groups_add_first() const;
  void add_leaves(const Tensor& slices, const std::vector<RowGradients>& rows, std::int64_t first);
  void add_groups(const Tensor& slices, const std::vector<RowGradients>& rows, std::int64_t first);
  void reduce_dense(Tensor mine, const std::vector<RowGradients>& rows);
  void reduce_rows(const std::vector<RowGradients>& rows);
  void reduce_fast(const Tensor& mine, const std::vector<RowGradients>& rows);
  /// What the micro-batch of each rank of the division gives the rows of this rank's shards; empty for a unit whose
  /// rows were not looked up.
  std::vector<RowGradients> exchange_row_gradients(const Division& division);
  void add(const RowGradients& rows, const Tensor& shards);
  Tensor as_table(const Tensor& shards) const;
  std::int64_t rows_of_shard() const { return as_table(master_).size(0); }
  /// Of all ids but `skip`.
  Routes route(std::span<const std::int64_t> ids, std::int64_t skip, const Division& division) const;
  /// Ids of this rank's rows, counted from the first row of its shards.
  Ids local(Ids ids, const Division& division) const;

  UnitLayout layout_;
  Sharding& sharding_;
  const Communicator& ranks_;   // that share the shards
  const std::int64_t sources_;  // ranks whose micro-batches this one has gradients of: 1, or the experts' group
  Tensor master_, rounded_, moment1_, moment2_;
  int users_ = 0;
  Tensor values_;          // gathered, while in use or soon in use
  Transfer gather_;        // of values_
  Tensor gathered_shard_;  // what gather_ reads
  Tensor gradients_;       // of each source's micro-batch, until reduced   [sources, buffer]
  std::optional<TokenGradients> token_gradients_;
  OrderedSum sum_;
};

/// Writes a piece of a shard in parts that are small beside a model: `read(begin, values)` gives the elements of the
/// member from `begin` on.
void fill(Device& device, const Tensor& shard, const ShardedUnit::Piece& piece,
          const std::function<void(std::int64_t begin, std::span<float> values)>& read);

using Units = std::vector<std::unique_ptr<ShardedUnit>>;

}  // namespace mtp::parallel
