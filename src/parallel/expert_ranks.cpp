#include "mtp/parallel/expert_ranks.h"

#include <numeric>

namespace mtp::parallel {

namespace {

/// The products ask for no more of pairs than how many there are, and whose they are.
ops::ExpertPairs pairs_of(Device& device, const std::vector<std::int64_t>& loads) {
  std::vector<std::int64_t> offsets(loads.size() + 1);
  std::partial_sum(loads.begin(), loads.end(), offsets.begin() + 1);
  return {.rows = device.empty({offsets.back()}, DType::i64), .places = {}, .offsets = device.from_host(offsets)};
}

}  // namespace

ExpertExchange::Routes ExpertRanks::route(const Tensor& pair_offsets, bool needs_gradient) const {
  const std::vector<std::int64_t> offsets = device_.ids_to_host(pair_offsets);
  const auto ranks = static_cast<std::size_t>(group_->size()), experts = (offsets.size() - 1) / ranks;  // of each rank
  std::vector<std::vector<std::int64_t>> to_each(ranks);  // the loads of its experts, and whether gradients go back
  Routes routes;
  routes.needs_gradient = needs_gradient;
  for (std::size_t r = 0; r < ranks; ++r) {
    for (std::size_t e = r * experts; e < (r + 1) * experts; ++e) to_each[r].push_back(offsets[e + 1] - offsets[e]);
    routes.sent.push_back(offsets[(r + 1) * experts] - offsets[r * experts]);
    to_each[r].push_back(needs_gradient ? 1 : 0);
  }
  for (std::vector<std::int64_t>& loads : group_->exchange(to_each, "the experts' loads")) {
    routes.needs_gradient |= loads.back() != 0;
    loads.pop_back();
    routes.received.push_back(std::reduce(loads.begin(), loads.end()));
    routes.pairs.push_back(pairs_of(device_, loads));
  }
  return routes;
}

Tensor ExpertRanks::send(const Tensor& rows, const Routes& routes) const {
  return exchange(rows, routes.sent, routes.received);
}

Tensor ExpertRanks::send_back(const Tensor& rows, const Routes& routes) const {
  return exchange(rows, routes.received, routes.sent);
}

Tensor ExpertRanks::exchange(const Tensor& rows, const std::vector<std::int64_t>& sent,
                             const std::vector<std::int64_t>& received) const {
  const Tensor result = device_.empty({std::reduce(received.begin(), received.end()), rows.size(1)}, rows.dtype(),
                                      MemoryUse::communication);
  group_->transport().exchange_rows(rows, sent, result, received, "the experts' rows").finish();
  return result;
}

}  // namespace mtp::parallel
