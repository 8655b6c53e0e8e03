#include "nccl.h"

#include <mpi.h>

#include <functional>
#include <utility>
#include <vector>

namespace emulation {

struct Nccl {
  MPI_Comm mpi = MPI_COMM_NULL;
  MPI_Request starting = MPI_REQUEST_NULL;
  /// One call of a group, which begins it and gives what to test for its end.
  using Call = std::function<MPI_Request()>;
  std::vector<Call> group;
  cudaStream_t stream = nullptr;
  int reports_in_progress = 0;  // a group that has ended does not begin at once
};

namespace {

Nccl* open_group = nullptr;

MPI_Datatype type_of(ncclDataType_t type) { return type == ncclFloat32 ? MPI_FLOAT : MPI_BYTE; }

/// A group as an operation of a stream.
struct Group {
  std::vector<Nccl::Call> calls;
  std::vector<MPI_Request> requests;
  bool has_begun = false;

  bool is_done() {
    if (!has_begun)
      for (const Nccl::Call& call : calls) requests.push_back(call());
    has_begun = true;
    int done = 0;
    PMPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    return done != 0;
  }
};

ncclResult_t add(Nccl* comm, cudaStream_t stream, Nccl::Call call) {
  if (open_group != nullptr && open_group != comm) return ncclInvalidArgument;
  open_group = comm;
  comm->stream = stream;
  comm->group.push_back(std::move(call));
  return ncclSuccess;
}

}  // namespace
}  // namespace emulation

using emulation::Nccl;

// The GPUs of ranks that wait for each other over MPI go on meanwhile.
extern "C" int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
  emulation::progress();
  return PMPI_Test(request, done, status);
}

ncclResult_t ncclGetVersion(int* version) { return *version = 20000, ncclSuccess; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return id->internal[0] = 1, ncclSuccess; }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int, ncclUniqueId id, int, ncclConfig_t* config) {
  if (id.internal[0] != 1 || config->blocking != 0) return ncclInvalidArgument;
  Nccl* nccl = *comm = new Nccl;
  MPI_Comm_idup(MPI_COMM_WORLD, &nccl->mpi, &nccl->starting);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  int started = 0;
  PMPI_Test(&comm->starting, &started, MPI_STATUS_IGNORE);
  const bool goes_on = comm->reports_in_progress > 0 && comm->reports_in_progress-- > 0;
  *state = started == 0 || goes_on ? ncclInProgress : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
// MPI keeps its communicator: a collective that was given up may still use it.
ncclResult_t ncclCommDestroy(ncclComm_t comm) { return delete comm, ncclSuccess; }
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  for (const auto& stream : emulation::streams()) stream->queue.clear();
  return delete comm, ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t) { return "emulated NCCL"; }
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclGroupStart() { return ncclSuccess; }

ncclResult_t ncclGroupEnd() {
  Nccl* const comm = std::exchange(emulation::open_group, nullptr);
  if (comm == nullptr) return ncclSuccess;
  emulation::enqueue_later(comm->stream, [group = emulation::Group{std::exchange(comm->group, {}), {}}]() mutable {
    return group.is_done();
  });
  comm->reports_in_progress = 2;
  return ncclInProgress;
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return emulation::add(comm, stream, [=, mpi = comm->mpi] {
    MPI_Request request;
    const int n = static_cast<int>(count);
    PMPI_Iallgather(from, n, emulation::type_of(type), to, n, emulation::type_of(type), mpi, &request);
    return request;
  });
}

ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
  return emulation::add(comm, stream, [=, mpi = comm->mpi] {
    MPI_Request request;
    PMPI_Ireduce_scatter_block(from, to, static_cast<int>(count), emulation::type_of(type), MPI_SUM, mpi, &request);
    return request;
  });
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return emulation::add(comm, stream, [=, mpi = comm->mpi] {
    MPI_Request request;
    PMPI_Isend(from, static_cast<int>(count), emulation::type_of(type), peer, 0, mpi, &request);
    return request;
  });
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return emulation::add(comm, stream, [=, mpi = comm->mpi] {
    MPI_Request request;
    PMPI_Irecv(to, static_cast<int>(count), emulation::type_of(type), peer, 0, mpi, &request);
    return request;
  });
}
