// mtp-bench-comm: the collectives that training uses beside plain MPI calls, and every link.

#include <algorithm>
#include <boost/program_options.hpp>

#include "collectives.h"
#include "links.h"
#include "support/main.h"

namespace {

using namespace mtp;
using namespace mtp::bench;

constexpr std::int64_t smallest = 4096, step = 4;

}  // namespace

int main(int argc, char** argv) {
  namespace po = boost::program_options;
  std::int64_t max_bytes = std::int64_t{1} << 30;
  po::options_description options;
  options.add_options()("max-bytes", po::value(&max_bytes)->default_value(max_bytes),
                        "largest size of a collective; less where the memory does not suffice");
  const auto add_all = [&](Suite& suite) {
    if (max_bytes < smallest)
      throw AgreedError(fmt::format("option --max-bytes: {} is below {}", max_bytes, smallest), 2);
    if (suite.communicator().size() == 1)
      throw AgreedError("one rank has nobody to communicate with; start it under mpirun -n 2, or more", 2);
    add_barrier(suite);
    const std::int64_t most = std::min(max_bytes, most_bytes(suite.communicator()));
    for (std::int64_t bytes = smallest; bytes <= most; bytes *= step) add_collectives(suite, bytes);
    if (suite.device_kind() == Device::Kind::cuda) return;  // links are those of MPI between hosts
    for (const std::int64_t bytes : {smallest, std::min(max_bytes, std::int64_t{1} << 24)}) add_links(suite, bytes);
  };
  return run(argc, argv,
             {.name = "mtp-bench-comm",
              .summary = "times the collectives of training beside plain MPI calls, and every link",
              .options = options,
              .add_all = add_all,
              .exchanges_tensors = true});
}
