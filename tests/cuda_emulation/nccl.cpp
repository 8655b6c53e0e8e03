#include "nccl.h"

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace emulation {

struct Nccl {
  MPI_Comm mpi = MPI_COMM_NULL;
  MPI_Request starting = MPI_REQUEST_NULL;
  int place = 0;            // of this rank: its machine's name and its GPU, hashed
  std::vector<int> places;  // of all ranks, while it starts
  /// One call of a group, which begins it and gives what to test for its end.
  using Call = std::function<MPI_Request()>;
  std::vector<Call> group;
  cudaStream_t stream = nullptr;
  int reports_in_progress = 0;  // a group that has ended does not begin at once
};

namespace {

/// Goes on with the start, which ends with a refusal of ranks that have one GPU on one machine.
ncclResult_t start(Nccl& nccl) {
  int done = 0;
  PMPI_Test(&nccl.starting, &done, MPI_STATUS_IGNORE);
  if (done == 0) return ncclInProgress;
  if (nccl.places.empty()) {
    int ranks = 0;
    PMPI_Comm_size(nccl.mpi, &ranks);
    nccl.places.resize(static_cast<std::size_t>(ranks));
    PMPI_Iallgather(&nccl.place, 1, MPI_INT, nccl.places.data(), 1, MPI_INT, nccl.mpi, &nccl.starting);
    return ncclInProgress;
  }
  return std::ranges::count(nccl.places, nccl.place) == 1 ? ncclSuccess : ncclInvalidUsage;
}

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
  if (stream->priority != highest_priority) fail("a collective is in a stream that has not the highest priority");
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

ncclResult_t ncclGetVersion(int* version) {
  return *version = std::stoi(emulation::property("NCCL", "22809")), ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return id->internal[0] = 1, ncclSuccess; }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int, ncclUniqueId id, int, ncclConfig_t* config) {
  if (id.internal[0] != 1 || config->blocking != 0) return ncclInvalidArgument;
  Nccl* nccl = *comm = new Nccl;
  const char* host = std::getenv("NCCL_HOSTID");
  const int gpu = emulation::visible_devices()[emulation::current_device];
  nccl->place = static_cast<int>(std::hash<std::string>()((host != nullptr ? host : "") + std::to_string(gpu)));
  MPI_Comm_idup(MPI_COMM_WORLD, &nccl->mpi, &nccl->starting);
  return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* part, ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidArgument;
  Nccl* nccl = *part = new Nccl;
  nccl->place = comm->place;
  PMPI_Comm_split(comm->mpi, color, key, &nccl->mpi);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = emulation::start(*comm);
  if (*state == ncclSuccess && comm->reports_in_progress > 0 && comm->reports_in_progress-- > 0)
    *state = ncclInProgress;
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
