#include "collectives.h"

#include <mpi.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include "mtp/parallel/sharded_unit.h"
#include "pattern.h"

namespace mtp::bench {

namespace {

// Buffers of a benchmark, at the most: gradients, what is received, and both again for the plain call; and shards.
constexpr std::int64_t buffers = 5;

/// Bytes that this machine could still give, or 0 where the kernel does not say.
std::int64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::int64_t kib = 0;
  for (std::string key; file >> key;)
    if (key == "MemAvailable:" && file >> kib) return kib * 1024;
  return 0;
}

/// How `bytes`, those of all shards together, travel: shards are whole blocks, as those of units are.
struct Layout {
  static constexpr std::int64_t unit_block = 4096;

  Layout(const parallel::Communicator& communicator, std::int64_t bytes) {
    const auto shard_bytes = static_cast<std::int64_t>(sizeof(float)) * communicator.size();
    const std::int64_t least = (bytes + shard_bytes - 1) / shard_bytes;
    block = std::min(unit_block, least);
    shard = (least + block - 1) / block * block;
    whole = shard * communicator.size();
  }
  double bytes() const { return static_cast<double>(whole) * sizeof(float); }

  std::int64_t block, shard, whole;  // in elements
};

/// As NCCL-tests define them: the algorithm's bandwidth is size over time, the bus's is what each rank's link carries.
auto bandwidths(const parallel::Communicator& communicator, double bytes) {
  const auto ranks = static_cast<double>(communicator.size());
  return [=](benchmark::UserCounters& counters, double seconds) {
    counters["algorithm_bandwidth"] = bytes / seconds;
    counters["bus_bandwidth"] = bytes / seconds * (ranks - 1) / ranks;
  };
}

void plain_exchange(const Tensor& from, const Tensor& to, int count) {
  MPI_Alltoall(from.f32(), count, MPI_FLOAT, to.f32(), count, MPI_FLOAT, MPI_COMM_WORLD);
}

void plain_sum(const Tensor& from, const Tensor& to, int count) {
  MPI_Reduce_scatter_block(from.f32(), to.f32(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

/// Where plain MPI calls find as many elements: a GPU's have a counterpart in the host's memory.
Tensor for_mpi(Device& device, const Tensor& tensor) {
  return device.kind() == Device::Kind::cpu ? tensor : device.empty_on_host(tensor.shape());
}

Work gather(const parallel::Communicator& communicator, Device& device, std::int64_t bytes) {
  const Layout layout(communicator, bytes);
  const std::int64_t n = layout.shard, rank = communicator.rank();
  const Tensor shard = filled(device, n, [rank](std::int64_t i) { return pattern(rank, i); }),
               whole = device.empty({layout.whole}), plain_shard = for_mpi(device, shard),
               plain_whole = for_mpi(device, whole);
  return {
      .run = [=, &communicator] { communicator.gather(shard, whole, layout.block, "a benchmark"); },
      .check = [=, &device] { expect(device, "gather", whole, [n](std::int64_t i) { return pattern(i / n, i % n); }); },
      .bytes = layout.bytes(),
      .plain =
          [=] {
            const int count = static_cast<int>(n);
            MPI_Allgather(plain_shard.f32(), count, MPI_FLOAT, plain_whole.f32(), count, MPI_FLOAT, MPI_COMM_WORLD);
          },
      .count = bandwidths(communicator, layout.bytes())};
}

Work exchange(const parallel::Communicator& communicator, Device& device, std::int64_t bytes) {
  const Layout layout(communicator, bytes);
  const std::int64_t n = layout.shard, rank = communicator.rank();
  const Tensor slices = filled(device, layout.whole, [rank](std::int64_t i) { return pattern(rank, i); }),
               received = device.empty({layout.whole}), plain_slices = for_mpi(device, slices),
               plain_received = for_mpi(device, received);
  return {.run = [=, &communicator] { communicator.exchange(slices, received, layout.block, "a benchmark"); },
          .check =
              [=, &device] {
                expect(device, "exchange", received,
                       [n, rank](std::int64_t i) { return pattern(i / n, rank * n + i % n); });
              },
          .bytes = layout.bytes(),
          .plain = [=] { plain_exchange(plain_slices, plain_received, static_cast<int>(n)); },
          .count = bandwidths(communicator, layout.bytes())};
}

/// The gradients of a unit on their way to the owners, as in a step with one micro-batch a rank.
class Reduction {
 public:
  Reduction(const parallel::Communicator& communicator, Device& device, parallel::UnitLayout layout,
            mtp::Reduction kind)
      : device_(device),
        sharding_{device, communicator, kind, communicator.size(), 0},
        unit_(std::move(layout), sharding_),
        gradient_(filled(device, unit_.layout().members()[0].elements(),
                         [&](std::int64_t i) { return pattern(communicator.rank(), i); })) {}

  void prepare() { device_.copy(gradient_, unit_.gradient(0)); }
  void run() { unit_.reduce_gradients(); }
  void check() const {
    const std::int64_t n = unit_.master().elements(), ranks = sharding_.communicator.size(),
                       first = sharding_.communicator.rank() * n, end = gradient_.elements();
    expect(device_, "reduction", unit_.gradient_sum(), [=](std::int64_t i) {
      float sum = 0;
      for (std::int64_t r = 0; r < ranks && first + i < end; ++r) sum += pattern(r, first + i);
      return sum;
    });
  }
  std::int64_t elements() const { return unit_.master().elements() * sharding_.communicator.size(); }

 private:
  Device& device_;
  parallel::Sharding sharding_;
  parallel::ShardedUnit unit_;
  Tensor gradient_;
};

Work reduction(const parallel::Communicator& communicator, Device& device, std::int64_t bytes, mtp::Reduction kind) {
  const std::int64_t elements = bytes / static_cast<std::int64_t>(sizeof(float));
  const parallel::UnitLayout layout("a benchmark", true, {{.name = "weight", .shape = {elements}}});
  const auto reduction = std::make_shared<Reduction>(communicator, device, layout, kind);
  const Tensor zeros = device.zeros({reduction->elements()}), from = for_mpi(device, zeros),
               to = for_mpi(device, device.zeros({reduction->elements()}));
  const auto size = static_cast<double>(reduction->elements()) * sizeof(float);
  const auto plain = kind == mtp::Reduction::ordered ? plain_exchange : plain_sum;
  const int count = static_cast<int>(reduction->elements() / communicator.size());
  return {.run = [=] { reduction->run(); },
          .check = [=] { reduction->check(); },
          .prepare = [=] { reduction->prepare(); },
          .bytes = size,
          .plain = [=] { plain(from, to, count); },
          .count = bandwidths(communicator, size)};
}

}  // namespace

std::int64_t most_bytes(const parallel::Communicator& communicator) {
  const std::int64_t mine = available_memory() / 2 / communicator.ranks_on_this_node() / buffers;
  return -communicator.max(-mine, "the memory of the ranks");
}

void add_barrier(Suite& suite) {
  const parallel::Communicator& communicator = suite.communicator();
  suite.add("barrier", "beside MPI_Barrier", [&](Device&) {
    return Work{.run = [&] { communicator.barrier("a benchmark"); },
                .check = [] {},
                .plain = [] { MPI_Barrier(MPI_COMM_WORLD); }};
  });
}

void add_collectives(Suite& suite, std::int64_t bytes) {
  const parallel::Communicator& communicator = suite.communicator();
  const auto add = [&](const char* name, const char* plain, const auto& make) {
    suite.add(fmt::format("{}/{}", name, bytes), fmt::format("beside {}", plain), make);
  };
  add("gather", "MPI_Allgather", [=, &communicator](Device& device) { return gather(communicator, device, bytes); });
  add("exchange", "MPI_Alltoall", [=, &communicator](Device& device) { return exchange(communicator, device, bytes); });
  // A unit's shards are no smaller than a block.
  if (bytes < static_cast<std::int64_t>(sizeof(float)) * Layout::unit_block * communicator.size()) return;
  add("reduce_ordered", "MPI_Alltoall",
      [=, &communicator](Device& device) { return reduction(communicator, device, bytes, mtp::Reduction::ordered); });
  add("reduce_fast", "MPI_Reduce_scatter_block",
      [=, &communicator](Device& device) { return reduction(communicator, device, bytes, mtp::Reduction::fast); });
}

}  // namespace mtp::bench
