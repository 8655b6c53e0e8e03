#include "links.h"

#include <mpi.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "pattern.h"
#include "support/context.h"

namespace mtp::bench {

namespace {

// Up to so many nodes every pair of them is timed; of more, each with its neighbour and with one half-way around.
constexpr std::size_t most_nodes_in_pairs = 16;

using Pair = std::pair<int, int>;

/// The ranks of each node, in the order of the nodes' first ranks.
std::vector<std::vector<int>> nodes_of(const std::vector<std::string>& hosts) {
  std::map<std::string, std::size_t> node_of;
  std::vector<std::vector<int>> nodes;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    const auto [found, is_new] = node_of.insert({hosts[rank], nodes.size()});
    if (is_new) nodes.emplace_back();
    nodes[found->second].push_back(static_cast<int>(rank));
  }
  return nodes;
}

std::vector<Pair> pairs_between(const std::vector<std::vector<int>>& nodes) {
  std::vector<Pair> pairs;
  for (std::size_t a = 0; a < nodes.size(); ++a)
    for (std::size_t b = a + 1; b < nodes.size(); ++b)
      if (nodes.size() <= most_nodes_in_pairs || b - a == 1 || b - a == nodes.size() / 2)
        pairs.push_back({nodes[a][0], nodes[b][0]});
  return pairs;
}

/// The i-th and the next rank of every node that has so many.
std::vector<Pair> pairs_inside(const std::vector<std::vector<int>>& nodes, std::size_t i) {
  std::vector<Pair> pairs;
  for (const std::vector<int>& ranks : nodes)
    if (i + 1 < ranks.size()) pairs.push_back({ranks[i], ranks[i + 1]});
  return pairs;
}

/// There and back.
void send(const Tensor& buffer, int to) {
  const int count = static_cast<int>(buffer.elements());
  MPI_Send(buffer.f32(), count, MPI_FLOAT, to, 0, MPI_COMM_WORLD);
  MPI_Recv(buffer.f32(), count, MPI_FLOAT, to, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

void send_back(const Tensor& buffer, int from) {
  const int count = static_cast<int>(buffer.elements());
  MPI_Recv(buffer.f32(), count, MPI_FLOAT, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  MPI_Send(buffer.f32(), count, MPI_FLOAT, from, 0, MPI_COMM_WORLD);
}

/// The pairs have no rank in common.
Work ping_pong(const parallel::Communicator& communicator, Device& device, std::int64_t bytes,
               const std::vector<Pair>& pairs) {
  const int rank = communicator.rank();
  const auto mine = std::ranges::find_if(pairs, [&](const Pair& p) { return p.first == rank || p.second == rank; });
  Work work{.run = [] {}, .check = [] {}, .takes_part = mine != pairs.end()};
  if (work.takes_part) {
    const auto [first, second] = *mine;
    const Tensor buffer = filled(device, bytes / static_cast<std::int64_t>(sizeof(float)),
                                 [&](std::int64_t i) { return rank == first ? pattern(first, i) : -1; });
    work.run = [=] { rank == first ? send(buffer, second) : send_back(buffer, first); };
    work.check = [=, &device] {
      expect(device, "ping-pong", buffer, [first](std::int64_t i) { return pattern(first, i); });
    };
  }
  work.count = [bytes](benchmark::UserCounters& counters, double seconds) {
    counters["latency"] = seconds / 2;
    counters["link_bandwidth"] = static_cast<double>(bytes) / (seconds / 2);
  };
  return work;
}

}  // namespace

void add_links(Suite& suite, std::int64_t bytes) {
  const parallel::Communicator& communicator = suite.communicator();
  const std::vector<std::string> host_of_rank = hosts(communicator);
  const std::vector<std::vector<int>> nodes = nodes_of(host_of_rank);
  const auto add = [&](const std::string& where, const std::string& label, const std::vector<Pair>& pairs) {
    suite.add(fmt::format("ping_pong/{}/{}", bytes, where), label,
              [=, &communicator](Device& device) { return ping_pong(communicator, device, bytes, pairs); });
  };
  for (const Pair& pair : pairs_between(nodes))
    add(fmt::format("between/{}-{}", pair.first, pair.second),
        fmt::format("{} {}", host_of_rank[pair.first], host_of_rank[pair.second]), {pair});
  const std::size_t most_ranks = std::ranges::max(nodes, {}, &std::vector<int>::size).size();
  for (std::size_t i = 0; i + 1 < most_ranks; ++i)
    add(fmt::format("inside/{}-{}", i, i + 1), "on every node at once", pairs_inside(nodes, i));
}

}  // namespace mtp::bench
