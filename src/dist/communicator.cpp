#include "mtp/dist/communicator.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <limits>

namespace mtp::dist {

namespace {

/// Counts of MPI are ints: large tensors travel as blocks.
class BlockType {
 public:
  explicit BlockType(std::int64_t floats) {
    MPI_Type_contiguous(static_cast<int>(floats), MPI_FLOAT, &type_);
    MPI_Type_commit(&type_);
  }
  ~BlockType() { MPI_Type_free(&type_); }
  BlockType(const BlockType&) = delete;
  BlockType& operator=(const BlockType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

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

int count_of_blocks(std::int64_t elements, std::int64_t block) {
  MTP_ASSERT(elements % block == 0 && elements / block <= std::numeric_limits<int>::max());
  return static_cast<int>(elements / block);
}

}  // namespace

MpiSession::MpiSession(int& argc, char**& argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  if (provided < MPI_THREAD_FUNNELED) throw Error("MPI: this library does not allow threads (MPI_THREAD_FUNNELED)");
}

MpiSession::~MpiSession() { MPI_Finalize(); }

Communicator::Communicator() {
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  MPI_Comm node = MPI_COMM_NULL;
  MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &node);
  MPI_Comm_size(node, &ranks_on_this_node_);
  MPI_Comm_free(&node);
}

void Communicator::barrier() const { MPI_Barrier(comm_); }

std::int64_t Communicator::sum(std::int64_t value) const {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_SUM, comm_);
  return value;
}

std::int64_t Communicator::max(std::int64_t value) const {
  MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT64_T, MPI_MAX, comm_);
  return value;
}

std::vector<double> Communicator::all_gather(std::span<const double> values) const {
  std::vector<double> all(values.size() * static_cast<std::size_t>(size_));
  const int count = static_cast<int>(values.size());
  MPI_Allgather(values.data(), count, MPI_DOUBLE, all.data(), count, MPI_DOUBLE, comm_);
  return all;
}

std::vector<std::string> Communicator::all_gather(const std::string& text) const {
  const auto longest = static_cast<int>(max(static_cast<std::int64_t>(text.size())) + 1);
  std::string padded = text;
  padded.resize(static_cast<std::size_t>(longest), '\0');
  std::string all(static_cast<std::size_t>(longest) * static_cast<std::size_t>(size_), '\0');
  MPI_Allgather(padded.data(), longest, MPI_CHAR, all.data(), longest, MPI_CHAR, comm_);
  std::vector<std::string> texts;
  for (int r = 0; r < size_; ++r) texts.emplace_back(all.data() + static_cast<std::size_t>(r) * padded.size());
  return texts;
}

void Communicator::gather(const Tensor& shard, const Tensor& whole, std::int64_t block) const {
  MTP_ASSERT(whole.elements() == shard.elements() * size_);
  const BlockType type(block);
  const int count = count_of_blocks(shard.elements(), block);
  MPI_Allgather(shard.f32(), count, type.get(), whole.f32(), count, type.get(), comm_);
}

void Communicator::exchange(const Tensor& slices, const Tensor& received, std::int64_t block) const {
  MTP_ASSERT(slices.elements() == received.elements() && slices.elements() % size_ == 0);
  const BlockType type(block);
  const int count = count_of_blocks(slices.elements() / size_, block);
  MPI_Alltoall(slices.f32(), count, type.get(), received.f32(), count, type.get(), comm_);
}

void Communicator::reduce_scatter(const Tensor& slices, const Tensor& sum) const {
  MTP_ASSERT(slices.elements() == sum.elements() * size_);
  if (sum.elements() > std::numeric_limits<int>::max())  // a sum needs a basic type, and MPI counts with ints
    throw Error("dist.reduction fast: a shard of {} elements is too large for MPI; use ordered", sum.elements());
  MPI_Reduce_scatter_block(slices.f32(), sum.f32(), static_cast<int>(sum.elements()), MPI_FLOAT, MPI_SUM, comm_);
}

std::vector<std::vector<std::int64_t>> Communicator::exchange(
    const std::vector<std::vector<std::int64_t>>& to_each) const {
  const Counts sent(to_each);
  std::vector<std::vector<std::int64_t>> from_each(to_each.size());
  std::vector<int> counts(to_each.size());
  MPI_Alltoall(sent.counts.data(), 1, MPI_INT, counts.data(), 1, MPI_INT, comm_);
  for (std::size_t r = 0; r < from_each.size(); ++r) from_each[r].resize(counts[r]);
  const Counts received(from_each);

  std::vector<std::int64_t> out, in(static_cast<std::size_t>(received.total));
  for (const auto& list : to_each) out.insert(out.end(), list.begin(), list.end());
  MPI_Alltoallv(out.data(), sent.counts.data(), sent.offsets.data(), MPI_INT64_T, in.data(), received.counts.data(),
                received.offsets.data(), MPI_INT64_T, comm_);
  for (std::size_t r = 0; r < from_each.size(); ++r)
    std::copy_n(in.begin() + received.offsets[r], counts[r], from_each[r].begin());
  return from_each;
}

Tensor Communicator::exchange_rows(Device& device, const Tensor& sent,
                                   const std::vector<std::vector<std::int64_t>>& to_each,
                                   const std::vector<std::vector<std::int64_t>>& from_each) const {
  const Counts out(to_each), in(from_each);
  MTP_ASSERT(sent.size(0) == out.total);
  const BlockType row(sent.size(1));
  Tensor received = device.empty({in.total, sent.size(1)});
  MPI_Alltoallv(sent.f32(), out.counts.data(), out.offsets.data(), row.get(), received.f32(), in.counts.data(),
                in.offsets.data(), row.get(), comm_);
  return received;
}

void Communicator::abort(int exit_code) const {
  MPI_Abort(comm_, exit_code);
  std::abort();  // MPI_Abort does not return
}

void agree(const Communicator& communicator, const std::function<void()>& work) {
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
    message = std::string("unexpected: ") + error.what();
    exit_code = 1;
  }
  const std::vector<std::string> messages = communicator.all_gather(message);
  const auto first = std::find_if(messages.begin(), messages.end(), [](const auto& text) { return !text.empty(); });
  if (first == messages.end()) return;
  if (std::all_of(messages.begin(), messages.end(), [&](const std::string& text) { return text == message; }))
    throw AgreedError(message, exit_code);
  if (first - messages.begin() == communicator.rank()) std::rethrow_exception(failure);
  communicator.barrier();  // which that rank never reaches: it says what is wrong and ends the job
}

}  // namespace mtp::dist
