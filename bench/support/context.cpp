#include "support/context.h"

#include <benchmark/benchmark.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <oneapi/dnnl/dnnl.hpp>
#include <set>
#include <vector>

#include "mtp/core/version.h"
#include "mtp/tensor/cuda_devices.h"

namespace mtp::bench {

namespace {

std::string host_name() {
  char name[MPI_MAX_PROCESSOR_NAME];
  int length = 0;
  MPI_Get_processor_name(name, &length);
  return {name, static_cast<std::size_t>(length)};
}

/// As the kernel names it; "unknown" where it does not.
std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string version(text, static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

/// The different values, in the order of the ranks that have them.
std::string distinct(const std::vector<std::string>& values) {
  std::vector<std::string> different;
  for (const std::string& value : values)
    if (std::ranges::find(different, value) == different.end()) different.push_back(value);
  return fmt::format("{}", fmt::join(different, "; "));
}

}  // namespace

std::vector<std::string> hosts(const parallel::Communicator& communicator) {
  return communicator.all_gather(host_name(), "the names of hosts");
}

void add_context(const parallel::Communicator& communicator, const std::string& program, int threads,
                 const std::string& device) {
  const std::vector<std::string> host_of_rank = hosts(communicator);
  const std::set<std::string> nodes(host_of_rank.begin(), host_of_rank.end());
  const CudaDevices cuda = find_cuda_devices();
  const std::string gpu = cuda.count == 0 ? "none" : fmt::format("{} CUDA devices, {}", cuda.count, cuda.remark);

  const auto add = [](const std::string& key, const std::string& value) { benchmark::AddCustomContext(key, value); };
  add("program", program);
  add("hosts", fmt::format("{}", fmt::join(host_of_rank, " ")));
  add("ranks", std::to_string(communicator.size()));
  add("nodes", std::to_string(nodes.size()));
  add("ranks_per_node", std::to_string(communicator.ranks_on_this_node()));
  add("threads", std::to_string(threads));
  add("cpu", distinct(communicator.all_gather(cpu_model(), "the names of processors")));
  add("device", distinct(communicator.all_gather(device, "the names of the ranks' devices")));
  add("gpu", distinct(communicator.all_gather(gpu, "the names of devices")));
  add("version", version());
  add("revision", revision());
  for (const Library& library : libraries()) add(library.name, library.version);
  add("oneDNN", onednn_version());
  add("MPI", mpi_version());
}

}  // namespace mtp::bench
