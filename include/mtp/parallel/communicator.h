#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/parallel/transport.h"
#include "mtp/tensor/device.h"

namespace mtp::parallel {

/// Starts MPI for the life of the program's `main`; one thread makes all calls. MPI waits for all ranks without a limit
/// when it starts and when it ends; in between, `Communicator` has one.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

/// The ranks of the job. Collective calls must be made by all ranks in the same order; `what` names what they
/// move, in the error of a rank that times out. MPI's own errors end the job.
class Communicator {
 public:
  using Handler = std::function<void(const Error&)>;

  /// All ranks of the job. Waits ten minutes for them until `set_timeout`. `ranks_per_node`: so many consecutive ranks
  /// are taken for a node, in place of those that share a machine.
  explicit Communicator(std::optional<int> ranks_per_node = std::nullopt);
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// The group of this rank, numbered in the ranks' order: those of whom `group_of` says the same as of this one.
  /// Collective. It sends tensors as these ranks do at the time of the call. They wait for each other as long as the
  /// job's ranks do, and a missing rank is named by its number in the job. This must outlive it.
  virtual std::unique_ptr<Communicator> split(const std::function<int(int rank)>& group_of) const;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_first() const { return rank_ == 0; }
  /// Ranks that share this rank's machine, and this rank's place among them.
  int ranks_on_this_node() const { return ranks_on_this_node_; }
  int rank_on_this_node() const { return rank_on_this_node_; }
  int nodes() const { return nodes_; }
  /// Whether each of the groups of ranks 0 … size - 1, size … 2 · size - 1, and so on, is on one node.
  bool nodes_hold_whole_groups(int size) const;

  /// How long a rank waits in a collective for the others.
  void set_timeout(double minutes) { timeout_minutes_ = minutes; }
  /// Called with the error when ranks do not arrive, on the lowest rank that did; without a handler the error is
  /// thrown. A program should end the job in the handler: MPI still holds the buffers of the collective, and unwinding
  /// could wait for a thread that hangs on the same disk as the missing rank.
  void on_missing_ranks(Handler handler) { missing_ranks_ = std::move(handler); }

  /// Seconds that this rank has spent in collectives over MPI since it started.
  double waited() const { return waited_; }

  virtual void barrier(std::string_view what) const;
  std::int64_t sum(std::int64_t value, std::string_view what) const;
  /// Sums of the ranks' values; equally many on each.
  virtual void sum(std::span<std::int64_t> values, std::string_view what) const;
  virtual std::int64_t max(std::int64_t value, std::string_view what) const;
  /// Everyone's values, in the order of the ranks; equally many on each.
  virtual std::vector<double> all_gather(std::span<const double> values, std::string_view what) const;
  virtual std::vector<std::string> all_gather(const std::string& text, std::string_view what) const;
  /// Rank 0's bytes on all ranks.
  virtual void broadcast(std::span<std::byte> bytes, std::string_view what) const;

  /// How tensors get from rank to rank: over MPI from and to the host's memory, unless there is a `Connection`.
  Transport& transport() const { return *transport_; }

  // Tensors may have any type of element, the same on all ranks, but for sums.

  /// whole = the ranks' shards one after another.   shard [n], whole [size · n]; n a multiple of `block`
  void gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) const;
  /// Moves slice q of every rank to rank q: received = slice `rank` of rank 0, 1, …   both [size · n]
  void exchange(const Tensor& slices, const Tensor& received, std::int64_t block, std::string_view what) const;

  /// Sends list q to rank q; result[r] came from rank r.
  virtual std::vector<std::vector<std::int64_t>> exchange(const std::vector<std::vector<std::int64_t>>& to_each,
                                                          std::string_view what) const;
  /// The same for rows: `sent` holds the rows for rank 0, then 1, …, as many as the lists in `to_each`; the result
  /// holds those from rank 0, 1, …, as many as in `from_each`.   [n, width]
  Tensor exchange_rows(Device& device, const Tensor& sent, const std::vector<std::vector<std::int64_t>>& to_each,
                       const std::vector<std::vector<std::int64_t>>& from_each, std::string_view what) const;

  /// Ends the whole job at once with `exit_code`.
  [[noreturn]] void abort(int exit_code) const;

  // For transports.

  struct Collective {
    std::string_view kind, what;
  };
  MPI_Comm mpi() const { return comm_; }
  /// Every collective waits here, and only here.
  void wait(MPI_Request request, const Collective& collective) const;
  /// Returns when `is_done` says so; gives up after the time limit, or when another rank has.
  void wait_until(const std::function<bool()>& is_done, const Collective& collective) const;
  /// The end of a collective that failed: like that of one that others do not come to.
  [[noreturn]] void fail(const Collective& collective, std::string_view reason) const;

 protected:
  /// Rank 0 of a job without MPI: whoever derives from this answers the calls that are virtual.
  Communicator(int ranks, int ranks_per_node);
  int node_of(int rank) const { return node_of_rank_[rank]; }
  void send_by(std::unique_ptr<Transport> transport);

 private:
  friend class Connection;
  friend class LongerWait;

  Communicator(const Communicator& ranks, int number);

  /// `node`: the ranks of this one's.
  void number_nodes(MPI_Comm node);
  /// All ranks of the job, who also wait on behalf of groups.
  const Communicator& job() const { return job_ != nullptr ? *job_ : *this; }
  double limit_minutes() const;
  bool roll_is_called() const;
  /// Calls the roll: this rank tells all others that it is there, which makes those that wait too do the same. Needs
  /// nothing of a rank that does not answer.
  std::vector<int> missing_ranks() const;
  std::string timeout_message(const std::vector<int>& missing, const Collective& collective) const;
  [[noreturn]] void give_up(const Collective& collective, std::string_view reason) const;

  const Communicator* job_ = nullptr;  // of a group
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, ranks_on_this_node_ = 1, rank_on_this_node_ = 0, nodes_ = 1;
  std::vector<int> node_of_rank_;  // by the lowest rank of the node
  double timeout_minutes_ = 10;
  mutable int longer_waits_ = 0;  // scopes of LongerWait
  mutable double waited_ = 0;
  Handler missing_ranks_;
  std::unique_ptr<Transport> own_transport_;
  Transport* transport_ = nullptr;
};

/// While it lives, this rank waits longer for the others: around work that is long on some ranks and yet comes to an
/// end, such as reading and writing models.
class LongerWait {
 public:
  static constexpr int factor = 6;

  explicit LongerWait(const Communicator& communicator) : communicator_(communicator) { ++communicator_.longer_waits_; }
  ~LongerWait() { --communicator_.longer_waits_; }
  LongerWait(const LongerWait&) = delete;
  LongerWait& operator=(const LongerWait&) = delete;

 private:
  const Communicator& communicator_;
};

/// Runs `work` on every rank and compares how it went. Where all ranks fail with the same message, each throws
/// AgreedError. Else the first rank that failed throws its own error, which ends the job, and the others wait for it.
/// `what` names the work.
void agree(const Communicator& communicator, std::string_view what, const std::function<void()>& work);

/// The same for a failure that the job outlives: returns the first failed rank's message on every rank, or nothing.
std::string first_failure(const Communicator& communicator, std::string_view what, const std::function<void()>& work);

}  // namespace mtp::parallel
