#include "mtp/parallel/communicator.h"

#include <fmt/ranges.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <thread>

#include "mpi_transport.h"
#include "mtp/core/exceptions.h"

namespace mtp::parallel {

namespace {

/// Lengths of lists, and where each begins when they stand one after another.
struct Counts {
  explicit Counts(const std::vector<std::vector<std::int64_t>>& lists) {
    for (const auto& list : lists) {
      counts.push_back(static_cast<int>(list.size()));
      offsets.push_back(total);
      total += counts.back();
    }
  }
  std::vector<int> counts, offsets;
  int total = 0;
};

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int roll_call_tag = 1;
constexpr Seconds roll_call_time{3};    // to hear from all ranks that are there
constexpr Seconds end_of_job_time{10};  // for another rank to report and end the job

/// Passes the time between two looks at what a rank waits for: looks at once at first, then leaves the core to others.
/// It sleeps only in long waits: ranks that sleep between the collectives of a step are slower by far on busy cores.
class Pause {
 public:
  void operator()() {
    if (is_long())
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    else if (waited_ > Seconds(20e-6))
      sched_yield();
    const Clock::time_point now = Clock::now();
    // One look takes no longer than this unless the whole job was suspended, which is no time waited.
    waited_ += std::min<Seconds>(now - last_, Seconds(1));
    last_ = now;
  }
  Seconds waited() const { return waited_; }
  bool is_long() const { return waited_ > Seconds(1); }

 private:
  Clock::time_point last_ = Clock::now();
  Seconds waited_{0};
};

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  if (provided < MPI_THREAD_FUNNELED) throw Error("MPI: this library does not allow threads (MPI_THREAD_FUNNELED)");
}

MpiSession::~MpiSession() { MPI_Finalize(); }

Communicator::Communicator(std::optional<int> ranks_per_node) {
  MPI_Comm_dup(MPI_COMM_WORLD, &comm_);  // lives as long as MPI: a collective that was given up may still use it
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  MPI_Comm node = MPI_COMM_NULL;
  if (ranks_per_node)
    MPI_Comm_split(comm_, rank_ / *ranks_per_node, rank_, &node);
  else
    MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
  number_nodes(node);
  send_by(std::make_unique<MpiTransport>(*this));
}

Communicator::Communicator(const Communicator& ranks, int number) : job_(&ranks.job()) {
  ranks.barrier("the making of groups");  // has a limit of time, which the calls below have not
  MPI_Comm_split(ranks.comm_, number, ranks.rank_, &comm_);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split(comm_, ranks.node_of_rank_[ranks.rank_], rank_, &node);
  number_nodes(node);
  send_by(ranks.transport_->split(*this));
}

Communicator::Communicator(int ranks, int ranks_per_node)
    : size_(ranks),
      ranks_on_this_node_(std::min(ranks, ranks_per_node)),
      nodes_((ranks + ranks_per_node - 1) / ranks_per_node) {
  for (int r = 0; r < ranks; ++r) node_of_rank_.push_back(r / ranks_per_node * ranks_per_node);
}

std::unique_ptr<Communicator> Communicator::split(const std::function<int(int rank)>& group_of) const {
  return std::unique_ptr<Communicator>(new Communicator(*this, group_of(rank_)));
}

void Communicator::send_by(std::unique_ptr<Transport> transport) {
  own_transport_ = std::move(transport);
  transport_ = own_transport_.get();
}

void Communicator::number_nodes(MPI_Comm node) {
  MPI_Comm_size(node, &ranks_on_this_node_);
  MPI_Comm_rank(node, &rank_on_this_node_);
  int lowest = rank_;
  MPI_Bcast(&lowest, 1, MPI_INT, 0, node);
  MPI_Comm_free(&node);
  node_of_rank_.resize(static_cast<std::size_t>(size_));
  MPI_Allgather(&lowest, 1, MPI_INT, node_of_rank_.data(), 1, MPI_INT, comm_);
  for (int r = 0; r < size_; ++r) nodes_ += r > 0 && node_of_rank_[r] == r;
}

Communicator::~Communicator() = default;

bool Communicator::nodes_hold_whole_groups(int size) const {
  for (int r = 0; r < size_; ++r)
    if (node_of_rank_[r] != node_of_rank_[r / size * size]) return false;
  return size_ % size == 0;
}

void Communicator::barrier(std::string_view what) const {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibarrier(comm_, &request);
  wait(request, {"barrier", what});
}

std::int64_t Communicator::sum(std::int64_t value, std::string_view what) const {
  sum({&value, 1}, what);
  return value;
}

void Communicator::sum(std::span<std::int64_t> values, std::string_view what) const {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_INT64_T, MPI_SUM, comm_, &request);
  wait(request, {"sum", what});
}

std::int64_t Communicator::max(std::int64_t value, std::string_view what) const {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_MAX, comm_, &request);
  wait(request, {"maximum", what});
  return value;
}

std::vector<double> Communicator::all_gather(std::span<const double> values, std::string_view what) const {
  std::vector<double> all(values.size() * static_cast<std::size_t>(size_));
  const int count = static_cast<int>(values.size());
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(values.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, comm_, &request);
  wait(request, {"gather", what});
  return all;
}

std::vector<std::string> Communicator::all_gather(const std::string& text, std::string_view what) const {
  const auto longest = static_cast<int>(max(static_cast<std::int64_t>(text.size()), what) + 1);
  std::string padded = text;
  padded.resize(static_cast<std::size_t>(longest), '\0');
  std::string all(static_cast<std::size_t>(longest) * static_cast<std::size_t>(size_), '\0');
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(padded.data(), longest, MPI_CHAR, all.data(), longest, MPI_CHAR, comm_, &request);
  wait(request, {"gather", what});
  std::vector<std::string> texts;
  for (int r = 0; r < size_; ++r) texts.emplace_back(all.data() + static_cast<std::size_t>(r) * padded.size());
  return texts;
}

void Communicator::broadcast(std::span<std::byte> bytes, std::string_view what) const {
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ibcast(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, 0, comm_, &request);
  wait(request, {"broadcast", what});
}

void Communicator::gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) const {
  MTP_ASSERT(whole.elements() == shard.elements() * size_ && whole.dtype() == shard.dtype());
  transport_->gather(shard, whole, block, what).finish();
}

void Communicator::exchange(const Tensor& slices, const Tensor& received, std::int64_t block,
                            std::string_view what) const {
  MTP_ASSERT(slices.elements() == received.elements() && slices.elements() % size_ == 0);
  MTP_ASSERT(slices.dtype() == received.dtype());
  std::vector<int> everyone(static_cast<std::size_t>(size_));
  std::iota(everyone.begin(), everyone.end(), 0);
  transport_->exchange(slices, received, block, {everyone, everyone}, what).finish();
}

std::vector<std::vector<std::int64_t>> Communicator::exchange(const std::vector<std::vector<std::int64_t>>& to_each,
                                                              std::string_view what) const {
  const Counts sent(to_each);
  std::vector<std::vector<std::int64_t>> from_each(to_each.size());
  std::vector<int> counts(to_each.size());
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ialltoall(sent.counts.data(), 1, MPI_INT, counts.data(), 1, MPI_INT, comm_, &request);
  wait(request, {"exchange", what});
  for (std::size_t r = 0; r < from_each.size(); ++r) from_each[r].resize(counts[r]);
  const Counts received(from_each);

  std::vector<std::int64_t> out, in(static_cast<std::size_t>(received.total));
  for (const auto& list : to_each) out.insert(out.end(), list.begin(), list.end());
  MPI_Ialltoallv(out.data(), sent.counts.data(), sent.offsets.data(), MPI_INT64_T, in.data(), received.counts.data(),
                 received.offsets.data(), MPI_INT64_T, comm_, &request);
  wait(request, {"exchange", what});
  for (std::size_t r = 0; r < from_each.size(); ++r)
    std::copy_n(in.begin() + received.offsets[r], counts[r], from_each[r].begin());
  return from_each;
}

Tensor Communicator::exchange_rows(Device& device, const Tensor& sent,
                                   const std::vector<std::vector<std::int64_t>>& to_each,
                                   const std::vector<std::vector<std::int64_t>>& from_each,
                                   std::string_view what) const {
  const auto counts = [](const std::vector<std::vector<std::int64_t>>& lists) {
    std::vector<std::int64_t> sizes;
    for (const auto& list : lists) sizes.push_back(std::ssize(list));
    return sizes;
  };
  const std::vector<std::int64_t> out = counts(to_each), in = counts(from_each);
  MTP_ASSERT(sent.size(0) == std::reduce(out.begin(), out.end()));
  Tensor received =
      device.empty({std::reduce(in.begin(), in.end()), sent.size(1)}, sent.dtype(), MemoryUse::communication);
  transport_->exchange_rows(sent, out, received, in, what).finish();
  return received;
}

void Communicator::wait(MPI_Request request, const Collective& collective) const {
  const Clock::time_point start = Clock::now();
  const auto is_done = [&] {
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  };
  wait_until(is_done, collective);
  job().waited_ += Seconds(Clock::now() - start).count();
}

void Communicator::wait_until(const std::function<bool()>& is_done, const Collective& collective) const {
  if (job_ != nullptr) return job_->wait_until(is_done, collective);
  const Seconds limit = std::chrono::duration<double, std::ratio<60>>(limit_minutes());
  for (Pause pause; !is_done(); pause())
    if (pause.waited() > limit || (pause.is_long() && roll_is_called())) give_up(collective, "");
}

void Communicator::fail(const Collective& collective, std::string_view reason) const {
  job().give_up(collective, reason);
}

double Communicator::limit_minutes() const { return timeout_minutes_ * (longer_waits_ > 0 ? LongerWait::factor : 1); }

bool Communicator::roll_is_called() const {
  int called = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, roll_call_tag, comm_, &called, MPI_STATUS_IGNORE);
  return called != 0;
}

std::vector<int> Communicator::missing_ranks() const {
  std::vector<bool> answered(size_);
  answered[rank_] = true;
  for (int r = 0; r < size_; ++r) {
    if (r == rank_) continue;
    MPI_Request sent = MPI_REQUEST_NULL;
    MPI_Isend(nullptr, 0, MPI_BYTE, r, roll_call_tag, comm_, &sent);
    MPI_Request_free(&sent);  // nobody waits for its end: it may have none
  }
  for (Pause pause; pause.waited() < roll_call_time; pause()) {
    while (roll_is_called()) {
      MPI_Status status;
      MPI_Recv(nullptr, 0, MPI_BYTE, MPI_ANY_SOURCE, roll_call_tag, comm_, &status);
      answered[status.MPI_SOURCE] = true;
    }
  }
  std::vector<int> missing;
  for (int r = 0; r < size_; ++r)
    if (!answered[r]) missing.push_back(r);
  return missing;
}

std::string Communicator::timeout_message(const std::vector<int>& missing, const Collective& collective) const {
  const std::string who = missing.empty() ? "all ranks answer now, but there was nothing"
                                          : fmt::format("no answer from rank{} {}", missing.size() > 1 ? "s" : "",
                                                        fmt::join(missing, ", "));
  const std::string limit =
      longer_waits_ > 0 ? fmt::format("{} × dist.timeout_minutes", LongerWait::factor) : "dist.timeout_minutes";
  return fmt::format(
      "{} for {:.6g} minutes ({}) in the {} of {}; see whether they were stopped and their machines and disks answer, "
      "or raise the setting",
      who, limit_minutes(), limit, collective.kind, collective.what);
}

void Communicator::give_up(const Collective& collective, std::string_view reason) const {
  const std::vector<int> missing = missing_ranks();
  int reporter = 0;
  while (std::ranges::count(missing, reporter) > 0) ++reporter;
  if (reporter != rank_) std::this_thread::sleep_for(end_of_job_time);
  const std::string message =
      reason.empty() ? timeout_message(missing, collective)
                     : fmt::format("the {} of {} failed: {}{}; see the machines' logs of GPUs and network",
                                   collective.kind, collective.what, reason,
                                   missing.empty() ? "" : fmt::format("; no answer from {}", fmt::join(missing, ", ")));
  const Error error("{}", message);
  if (missing_ranks_) missing_ranks_(error);
  throw error;
}

void Communicator::abort(int exit_code) const {
  if (job_ != nullptr) job_->abort(exit_code);
  transport_->abandon();  // a collective on a GPU would hold up the end of this process
  MPI_Abort(comm_, exit_code);
  std::abort();  // MPI_Abort does not return
}

void agree(const Communicator& communicator, std::string_view what, const std::function<void()>& work) {
  std::exception_ptr failure;
  std::string message;
  int exit_code = 0;
  try {
    work();
  } catch (const Error& error) {
    failure = std::current_exception();
    message = error.what();
    exit_code = error.exit_code();
  } catch (const std::exception& error) {
    failure = std::current_exception();
    message = message_of(error);
    exit_code = 1;
  }
  const std::vector<std::string> messages = communicator.all_gather(message, what);
  const auto first = std::find_if(messages.begin(), messages.end(), [](const auto& text) { return !text.empty(); });
  if (first == messages.end()) return;
  if (std::all_of(messages.begin(), messages.end(), [&](const std::string& text) { return text == message; }))
    throw AgreedError(message, exit_code);
  if (first - messages.begin() == communicator.rank()) std::rethrow_exception(failure);
  communicator.barrier(what);  // which that rank never reaches: it says what is wrong and ends the job
}

std::string first_failure(const Communicator& communicator, std::string_view what, const std::function<void()>& work) {
  std::string mine;
  try {
    work();
  } catch (const std::exception& error) {
    mine = one_line(error.what());
  }
  for (const std::string& failure : communicator.all_gather(mine, what))
    if (!failure.empty()) return failure;
  return {};
}

}  // namespace mtp::parallel
