#include "parallel_program.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string_view>
#include <thread>

#include "mtp/core/exceptions.h"
#include "mtp/core/log.h"
#include "mtp/core/version.h"
#include "mtp/tensor/cuda_devices.h"

namespace mtp::apps {

namespace {

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// Set by PMIx, by Open MPI's mpirun and by MPICH's mpiexec. Looked at before MPI starts, which sets some of them
/// itself where nobody has.
const bool has_launcher =
    !variable("PMIX_RANK").empty() || !variable("OMPI_COMM_WORLD_SIZE").empty() || !variable("MPI_LOCALNRANKS").empty();

/// Whether srun started several processes each of which MPI takes for a job of its own: by PMI-2, where it knows only
/// PMIx.
bool is_split_by_srun(const parallel::Communicator& communicator) {
  return communicator.size() == 1 && !has_launcher && std::atoi(variable("SLURM_STEP_NUM_TASKS").data()) > 1;
}

void print(const parallel::Communicator& communicator, const Error& error) {
  std::fprintf(stderr, "error: rank %d: %s\n", communicator.rank(), error.what());
}

}  // namespace

int run_parallel(parallel::Communicator& communicator, const std::function<int()>& work) {
  communicator.on_missing_ranks([&](const Error& error) {
    print(communicator, error);
    communicator.abort(error.exit_code());
  });
  int exit_code = 1;
  try {
    start_log(communicator.rank());
    if (is_split_by_srun(communicator)) {
      if (variable("SLURM_PROCID") != "0") return 2;
      throw UsageError(
          "srun --mpi={}: this MPI takes the {} processes for as many jobs; start them by srun --mpi=pmix, if `srun "
          "--mpi=list` has it, or by mpirun",
          variable("SLURM_MPI_TYPE"), variable("SLURM_STEP_NUM_TASKS"));
    }
    const int result = work();
    if (!std::cout.flush()) throw Error("standard output: cannot be written; see whether its disk is full");
    return result;
  } catch (const AgreedError& error) {
    if (communicator.is_first()) std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  } catch (const Error& error) {
    print(communicator, error);
    exit_code = error.exit_code();
  } catch (const std::exception& error) {
    print(communicator, Error("{}", message_of(error)));
  }
  if (communicator.size() > 1) communicator.abort(exit_code);
  return exit_code;
}

int exit_code(train::Trainer::End end) { return end == train::Trainer::End::stopped ? 75 : 0; }

int threads_of(const Settings& settings, const parallel::Communicator& communicator) {
  if (settings.run.threads > 0) return static_cast<int>(settings.run.threads);
  if (const char* set = std::getenv("OMP_NUM_THREADS"); set != nullptr && std::atoi(set) > 0) return std::atoi(set);
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / communicator.ranks_on_this_node());
}

Device device_of(const Settings& settings, const parallel::Communicator& communicator, std::string_view asked_by) {
  if (settings.run.device == DeviceChoice::cpu) return Device(threads_of(settings, communicator));
  const CudaDevices found = find_cuda_devices();
  const std::vector<std::string> lacking =
      communicator.all_gather(found.count > 0 ? "" : found.remark, "the ranks' GPUs");
  const auto first = std::ranges::find_if(lacking, [](const std::string& remark) { return !remark.empty(); });
  if (first == lacking.end()) return Device::cuda(communicator.rank_on_this_node() % found.count);
  const bool nobody_has = std::ranges::none_of(lacking, [](const std::string& remark) { return remark.empty(); });
  if (nobody_has && settings.run.device == DeviceChoice::automatic) return Device(threads_of(settings, communicator));
  throw AgreedError(fmt::format("{}: rank {} has no GPU: {}{}; use nodes with GPUs, or set it to cpu", asked_by,
                                first - lacking.begin(), *first, nobody_has ? "" : ", although others have"),
                    2);
}

int print_version(const parallel::Communicator& communicator, const std::string& program) {
  if (!communicator.is_first()) return 0;
  const CudaDevices cuda = find_cuda_devices();
  std::cout << version_text(program) << "CUDA devices " << cuda.count << " (" << cuda.remark << ")\n";
  return 0;
}

}  // namespace mtp::apps
