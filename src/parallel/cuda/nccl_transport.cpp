#include "../nccl_transport.h"

#include <nccl.h>

#include <chrono>
#include <deque>
#include <exception>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "../../tensor/cuda/context.h"
#include "../../tensor/cuda/stream.h"

namespace mtp::parallel {

namespace {

constexpr std::chrono::seconds time_to_abort{10};  // which NCCL may not come back from

/// A collective on the communication stream.
struct Queued {
  Queued(std::string_view of_kind, std::string_view of_what) : kind(of_kind), what(of_what) {}
  Communicator::Collective collective() const { return {kind, what}; }

  std::string kind, what;
  CudaEvent done;
};

/// What a transport and those of its groups share: one stream, so that all ranks' GPUs come to collectives of several
/// groups in the same order. A collective needs few blocks of threads, but all ranks': what computes must not keep them
/// waiting on one.
struct NcclStream {
  CudaStream stream{CudaStream::Priority::highest};
  CudaEvent computed;
  std::deque<std::shared_ptr<Queued>> queued;  // in the stream's order; those that the host knows to be done are gone
  std::vector<ncclComm_t> communicators;
};

/// Collectives run on a stream of their own. Each begins when what the device computes so far is done, and `finish`
/// holds back what it computes later. The host waits for none of this; where it waits for the device, it looks after
/// NCCL's errors and the time limit.
class NcclTransport final : public Transport {
 public:
  NcclTransport(const Communicator& communicator, Device& device)
      : communicator_(communicator), device_(device), shared_(std::make_shared<NcclStream>()), watches_(true) {
    ncclUniqueId id = {};
    const Communicator::Collective start{"start", "NCCL"};
    if (communicator.is_first()) settle(ncclGetUniqueId(&id), start);
    communicator.broadcast(std::as_writable_bytes(std::span(id.internal)), "NCCL's id");
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(ncclCommInitRankConfig(&nccl_, communicator.size(), id, communicator.rank(), &config), start);
    shared_->communicators.push_back(nccl_);
    device.on_wait([this](const std::function<bool()>& is_done) { wait_for_device(is_done); });
  }

  /// Of a group of another one's ranks.
  NcclTransport(const Communicator& group, NcclTransport& whole)
      : communicator_(group), device_(whole.device_), shared_(whole.shared_) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const Communicator::Collective start{"start", "NCCL of a group"};
    int first = whole.communicator_.rank();  // names the group
    MPI_Bcast(&first, 1, MPI_INT, 0, group.mpi());
    whole.settle(ncclCommSplit(whole.nccl_, first, group.rank(), &nccl_, &config), start);
    settle(ncclInProgress, start);
    shared_->communicators.push_back(nccl_);
  }

  ~NcclTransport() override {
    if (watches_) device_.on_wait({});
    if (std::uncaught_exceptions() > 0 || !end()) abandon();
  }
  NcclTransport(const NcclTransport&) = delete;
  NcclTransport& operator=(const NcclTransport&) = delete;

  std::unique_ptr<Transport> split(const Communicator& group) override {
    return std::make_unique<NcclTransport>(group, *this);
  }
  std::string name() const override { return nccl_version(); }
  bool overlaps() const override { return true; }

  Transfer gather(const Tensor& shard, const Tensor& whole, std::int64_t, std::string_view what) override {
    return start("gather", what, {shard, whole}, [&](cudaStream_t stream) {
      queue(ncclAllGather(shard.data<std::byte>(), whole.data<std::byte>(), bytes_of(shard), ncclInt8, nccl_, stream));
    });
  }

  Transfer exchange(const Tensor& slices, const Tensor& received, std::int64_t, const Peers& peers,
                    std::string_view what) override {
    const std::size_t bytes = bytes_of(slices) / peers.to.size();
    return start("exchange", what, {slices, received}, [&](cudaStream_t stream) {
      for (std::size_t k = 0; k < peers.to.size(); ++k) {
        queue(ncclSend(slices.data<std::byte>() + k * bytes, bytes, ncclInt8, peers.to[k], nccl_, stream));
        queue(ncclRecv(received.data<std::byte>() + k * bytes, bytes, ncclInt8, peers.from[k], nccl_, stream));
      }
    });
  }

  Transfer reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) override {
    return start("sum", what, {slices, sum}, [&](cudaStream_t stream) {
      queue(ncclReduceScatter(slices.f32(), sum.f32(), static_cast<std::size_t>(sum.elements()), ncclFloat32, ncclSum,
                              nccl_, stream));
    });
  }

  Transfer exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each, const Tensor& received,
                         const std::vector<std::int64_t>& from_each, std::string_view what) override {
    const std::size_t row = static_cast<std::size_t>(sent.size(1)) * size_of(sent.dtype());
    return start("exchange", what, {sent, received}, [&](cudaStream_t stream) {
      std::byte *from = sent.data<std::byte>(), *to = received.data<std::byte>();
      for (int r = 0; r < communicator_.size(); ++r) {
        const std::size_t out = static_cast<std::size_t>(to_each[r]) * row;
        const std::size_t in = static_cast<std::size_t>(from_each[r]) * row;
        if (out > 0) queue(ncclSend(from, out, ncclInt8, r, nccl_, stream));
        if (in > 0) queue(ncclRecv(to, in, ncclInt8, r, nccl_, stream));
        from += out;
        to += in;
      }
    });
  }

  void abandon() override {
    std::packaged_task<void()> abort([all = std::exchange(shared_->communicators, {})] {
      for (const ncclComm_t nccl : all) ncclCommAbort(nccl);
    });
    const std::future<void> aborted = abort.get_future();
    std::thread(std::move(abort)).detach();
    aborted.wait_for(time_to_abort);
  }

 private:
  static std::size_t bytes_of(const Tensor& tensor) {
    return static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype());
  }

  /// A call within a group, which must be ended all the same where one fails: the first failure is told then.
  void queue(ncclResult_t result) {
    if (group_ == ncclSuccess && result != ncclInProgress) group_ = result;
  }

  template <typename Calls>
  Transfer start(std::string_view kind, std::string_view what, std::vector<Tensor> tensors, Calls calls) {
    const auto queued = std::make_shared<Queued>(kind, what);
    shared_->computed.record(device_.context().stream());
    shared_->computed.hold_back(shared_->stream);
    group_ = ncclGroupStart();
    calls(shared_->stream);
    const ncclResult_t ended = ncclGroupEnd();
    settle(group_ == ncclSuccess ? ended : group_, queued->collective());
    queued->done.record(shared_->stream);
    shared_->queued.push_back(queued);
    return Transfer(
        [queued, held = std::move(tensors), stream = device_.context().stream()] { queued->done.hold_back(stream); });
  }

  /// Calls return before they have begun: only when they have may anything follow them in the stream.
  void settle(ncclResult_t result, const Communicator::Collective& collective) {
    const auto has_settled = [&] {
      if (result == ncclInProgress) throw_if_failed(ncclCommGetAsyncError(nccl_, &result), collective);
      return result != ncclInProgress;
    };
    communicator_.wait_until(has_settled, collective);
    throw_if_failed(result, collective);
  }

  void throw_if_failed(ncclResult_t result, const Communicator::Collective& collective) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    communicator_.fail(collective, fmt::format("NCCL: {} {}", ncclGetErrorString(result), ncclGetLastError(nccl_)));
  }

  /// The time limit is that of the collective which the communication stream has come to.
  void wait_for_device(const std::function<bool()>& is_done) {
    while (!is_done()) {
      const std::shared_ptr<Queued> first = first_under_way();
      const Communicator::Collective collective =
          first != nullptr ? first->collective() : Communicator::Collective{"computing", "this rank's GPU"};
      communicator_.wait_until(
          [&] {
            for (const ncclComm_t nccl : shared_->communicators) {
              ncclResult_t state = ncclSuccess;
              throw_if_failed(ncclCommGetAsyncError(nccl, &state), collective);
              throw_if_failed(state, collective);
            }
            return is_done() || (first != nullptr && first->done.is_done());
          },
          collective);
    }
  }

  std::shared_ptr<Queued> first_under_way() {
    std::deque<std::shared_ptr<Queued>>& queued = shared_->queued;
    while (!queued.empty() && queued.front()->done.is_done()) queued.pop_front();
    return queued.empty() ? nullptr : queued.front();
  }

  /// Whether all came to an end as it should.
  bool end() {
    try {
      const Communicator::Collective last{"end", "NCCL"};
      if (shared_->communicators.empty()) return true;  // all were abandoned
      shared_->computed.record(shared_->stream);
      wait_for_device([&] { return shared_->computed.is_done(); });
      settle(ncclCommFinalize(nccl_), last);
      std::erase(shared_->communicators, nccl_);
      return ncclCommDestroy(nccl_) == ncclSuccess;
    } catch (const Error&) {
      return false;
    }
  }

  const Communicator& communicator_;
  Device& device_;
  std::shared_ptr<NcclStream> shared_;
  ncclComm_t nccl_ = nullptr;
  ncclResult_t group_ = ncclSuccess;  // of the calls of the group that is being queued
  const bool watches_ = false;        // over what the device waits for
};

}  // namespace

bool is_built_with_nccl() { return true; }

std::string nccl_version() {
  int version = 0;
  ncclGetVersion(&version);
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

std::unique_ptr<Transport> make_nccl_transport(const Communicator& communicator, Device& device) {
  return std::make_unique<NcclTransport>(communicator, device);
}

}  // namespace mtp::parallel
