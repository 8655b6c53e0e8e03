#include "mpi_transport.h"

#include <limits>

namespace mtp::parallel {

namespace {

/// Counts of MPI are ints: large tensors travel as blocks, of bytes as nothing is computed with them.
class BlockType {
 public:
  BlockType(std::int64_t elements, DType dtype) {
    MPI_Type_contiguous(static_cast<int>(elements) * static_cast<int>(size_of(dtype)), MPI_BYTE, &type_);
    MPI_Type_commit(&type_);
  }
  ~BlockType() { MPI_Type_free(&type_); }
  BlockType(const BlockType&) = delete;
  BlockType& operator=(const BlockType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

/// What is sent to, or received from, each rank, in a buffer.
struct Parts {
  explicit Parts(std::size_t ranks) : counts(ranks), offsets(ranks) {}
  std::vector<int> counts, offsets;
};

Parts rows_of(const std::vector<std::int64_t>& counts) {
  Parts parts(counts.size());
  std::int64_t end = 0;
  for (std::size_t r = 0; r < counts.size(); end += counts[r++]) {
    parts.counts[r] = static_cast<int>(counts[r]);
    parts.offsets[r] = static_cast<int>(end);
  }
  MTP_ASSERT(end <= std::numeric_limits<int>::max());
  return parts;
}

Parts slices_of(const std::vector<int>& peers, int count, int ranks) {
  Parts parts(static_cast<std::size_t>(ranks));
  for (std::size_t k = 0; k < peers.size(); ++k) {
    parts.counts[peers[k]] = count;
    parts.offsets[peers[k]] = static_cast<int>(k) * count;
  }
  return parts;
}

int count_of_blocks(std::int64_t elements, std::int64_t block) {
  MTP_ASSERT(elements % block == 0 && elements / block <= std::numeric_limits<int>::max());
  return static_cast<int>(elements / block);
}

}  // namespace

Transfer MpiTransport::gather(const Tensor& shard, const Tensor& whole, std::int64_t block, std::string_view what) {
  const BlockType type(block, shard.dtype());
  const int count = count_of_blocks(shard.elements(), block);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallgather(shard.data<std::byte>(), count, type.get(), whole.data<std::byte>(), count, type.get(),
                 communicator_.mpi(), &request);
  communicator_.wait(request, {"gather", what});
  return {};
}

Transfer MpiTransport::exchange(const Tensor& slices, const Tensor& received, std::int64_t block, const Peers& peers,
                                std::string_view what) {
  const BlockType type(block, slices.dtype());
  const int ranks = communicator_.size();
  const int count = count_of_blocks(slices.elements() / std::ssize(peers.to), block);
  MTP_ASSERT(slices.elements() / block <= std::numeric_limits<int>::max());
  const Parts out = slices_of(peers.to, count, ranks), in = slices_of(peers.from, count, ranks);
  MPI_Request request = MPI_REQUEST_NULL;
  if (std::ssize(peers.to) == ranks)
    MPI_Ialltoall(slices.data<std::byte>(), count, type.get(), received.data<std::byte>(), count, type.get(),
                  communicator_.mpi(), &request);
  else
    MPI_Ialltoallv(slices.data<std::byte>(), out.counts.data(), out.offsets.data(), type.get(),
                   received.data<std::byte>(), in.counts.data(), in.offsets.data(), type.get(), communicator_.mpi(),
                   &request);
  communicator_.wait(request, {"exchange", what});
  return {};
}

Transfer MpiTransport::reduce_scatter(const Tensor& slices, const Tensor& sum, std::string_view what) {
  if (sum.elements() > std::numeric_limits<int>::max())  // a sum needs a basic type, and MPI counts with ints
    throw Error("dist.reduction fast: a shard of {} elements is too large for MPI; use ordered", sum.elements());
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ireduce_scatter_block(slices.f32(), sum.f32(), static_cast<int>(sum.elements()), MPI_FLOAT, MPI_SUM,
                            communicator_.mpi(), &request);
  communicator_.wait(request, {"sum", what});
  return {};
}

Transfer MpiTransport::exchange_rows(const Tensor& sent, const std::vector<std::int64_t>& to_each,
                                     const Tensor& received, const std::vector<std::int64_t>& from_each,
                                     std::string_view what) {
  const BlockType row(sent.size(1), sent.dtype());
  const Parts out = rows_of(to_each), in = rows_of(from_each);
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Ialltoallv(sent.data<std::byte>(), out.counts.data(), out.offsets.data(), row.get(), received.data<std::byte>(),
                 in.counts.data(), in.offsets.data(), row.get(), communicator_.mpi(), &request);
  communicator_.wait(request, {"exchange", what});
  return {};
}

}  // namespace mtp::parallel
