#pragma once

#include <mpi.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mtp/tensor/device.h"

namespace mtp::dist {

/// Starts MPI for the life of the program's `main`; one thread makes all calls.
class MpiSession {
 public:
  MpiSession(int& argc, char**& argv);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
};

/// The ranks of the job. Collective calls must be made by all ranks in the same order. MPI's own errors end the job.
class Communicator {
 public:
  /// All ranks of the job.
  Communicator();

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool is_first() const { return rank_ == 0; }
  /// Ranks that share this rank's machine.
  int ranks_on_this_node() const { return ranks_on_this_node_; }

  void barrier() const;
  std::int64_t sum(std::int64_t value) const;
  std::int64_t max(std::int64_t value) const;
  /// Everyone's values, in the order of the ranks; equally many on each.
  std::vector<double> all_gather(std::span<const double> values) const;
  std::vector<std::string> all_gather(const std::string& text) const;

  /// whole = the ranks' shards one after another.   shard [n], whole [size · n]; n a multiple of `block`
  void gather(const Tensor& shard, const Tensor& whole, std::int64_t block) const;
  /// Moves slice q of every rank to rank q: received = slice `rank` of rank 0, 1, …   both [size · n]
  void exchange(const Tensor& slices, const Tensor& received, std::int64_t block) const;
  /// sum = Σ over ranks of their slice `rank`, in an order that MPI chooses.   slices [size · n], sum [n]
  void reduce_scatter(const Tensor& slices, const Tensor& sum) const;

  /// Sends list q to rank q; result[r] came from rank r.
  std::vector<std::vector<std::int64_t>> exchange(const std::vector<std::vector<std::int64_t>>& to_each) const;
  /// The same for rows: `sent` holds the rows for rank 0, then 1, …, as many as the lists in `to_each`; the result
  /// holds those from rank 0, 1, …, as many as in `from_each`.   [n, width]
  Tensor exchange_rows(Device& device, const Tensor& sent, const std::vector<std::vector<std::int64_t>>& to_each,
                       const std::vector<std::vector<std::int64_t>>& from_each) const;

  /// Ends the whole job at once with `exit_code`.
  [[noreturn]] void abort(int exit_code) const;

 private:
  MPI_Comm comm_ = MPI_COMM_WORLD;
  int rank_ = 0, size_ = 1, ranks_on_this_node_ = 1;
};

/// Runs `work` on every rank and compares how it went. Where all ranks fail with the same message, each throws
/// AgreedError. Else the first rank that failed throws its own error, which ends the job, and the others wait for it.
void agree(const Communicator& communicator, const std::function<void()>& work);

}  // namespace mtp::dist
