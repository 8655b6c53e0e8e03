#include "mtp/train/optimizer.h"

#include <algorithm>
#include <cmath>

namespace mtp::train {

Optimizer::Optimizer(const Settings::Optimizer& settings, std::uint64_t seed, Device& device,
                     const parallel::Communicator& communicator, const parallel::Units& units)
    : settings_(settings), seed_(seed), device_(device), communicator_(communicator) {
  for (std::size_t i = 0; i < units.size(); ++i)
    if (units[i]->trained()) units_.push_back({units[i].get(), i});
}

double Optimizer::gradient_norm() const {
  double sum = 0;
  for (const auto& [unit, number] : units_) {
    const std::int64_t block = unit->layout().block();
    const Tensor shard_sums = device_.empty({unit->gradient_sum().elements() / block}, DType::f64);
    ops::sum_of_squares(device_, unit->gradient_sum(), block, shard_sums);
    std::vector<double> mine(static_cast<std::size_t>(shard_sums.elements()));
    device_.to_host(shard_sums, mine);
    const std::vector<double> all = communicator_.all_gather(mine, unit->layout().name());
    std::vector<double> by_block(all.size());
    for (int r = 0; r < communicator_.size(); ++r)
      for (const parallel::ShardedUnit::Run& run : unit->runs(r))
        std::copy_n(all.begin() + r * std::ssize(mine) + run.position / block, run.elements / block,
                    by_block.begin() + run.first / block);
    for (const double block_sum : by_block) sum += block_sum;
  }
  return std::sqrt(sum);
}

void Optimizer::update(std::int64_t step, double lr, double gradient_norm) {
  const double max_norm = settings_.max_grad_norm;
  const double factor = max_norm > 0 ? std::min(1.0, max_norm / (gradient_norm + 1e-6)) : 1.0;
  const ops::AdamW adamw{.lr = lr,
                         .beta1 = settings_.beta1,
                         .beta2 = settings_.beta2,
                         .eps = settings_.eps,
                         .weight_decay = settings_.weight_decay,
                         .step = step + 1,
                         .gradient_factor = static_cast<float>(factor)};
  std::vector<ops::AdamWShard> shards;
  for (const Unit& unit : units_)
    for (const parallel::ShardedUnit::Run& run : unit.unit->runs(communicator_.rank()))
      shards.push_back(shard(unit, run, step));
  ops::adamw(device_, adamw, shards);
  for (const Unit& unit : units_) unit.unit->clear_gradient_sum();
}

ops::AdamWShard Optimizer::shard(const Unit& of, const parallel::ShardedUnit::Run& run, std::int64_t step) const {
  constexpr int bits_of_step = 40;
  const parallel::ShardedUnit& unit = *of.unit;
  const std::uint64_t stream = of.number << bits_of_step | static_cast<std::uint64_t>(step);
  const auto part = [&](const Tensor& shard) {
    return shard.empty() ? shard : shard.slice(run.position, {run.elements});
  };
  return {.gradient = part(unit.gradient_sum()),
          .weight = part(unit.master()),
          .moment1 = part(unit.moment1()),
          .moment2 = part(unit.moment2()),
          .moments_on_host = settings_.moments_on == MomentsPlace::host,
          .rounded_weight = part(unit.rounded()),
          .random = Random(seed_, Purpose::stochastic_rounding, stream),
          .first = run.first};
}

}  // namespace mtp::train
