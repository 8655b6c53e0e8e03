#include "mtp/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "mtp/ops/optimizer.h"

namespace mtp::train {

Optimizer::Optimizer(const Settings::Optimizer& settings, Device& device, const dist::Communicator& communicator,
                     const dist::Units& units)
    : settings_(settings), device_(device), communicator_(communicator) {
  for (const auto& unit : units)
    if (unit->trained()) units_.push_back(unit.get());
}

double Optimizer::gradient_norm() const {
  double sum = 0;
  for (const dist::ShardedUnit* unit : units_) {
    const std::int64_t block = unit->layout().block();
    const Tensor shard_sums = device_.empty({unit->gradient_sum().elements() / block}, DType::f64);
    ops::sum_of_squares(device_, unit->gradient_sum(), block, shard_sums);
    std::vector<double> mine(static_cast<std::size_t>(shard_sums.elements()));
    device_.to_host(shard_sums, mine);
    for (const double block_sum : communicator_.all_gather(mine, unit->layout().name())) sum += block_sum;
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
  for (const dist::ShardedUnit* unit : units_)
    ops::adamw(device_, adamw, unit->gradient_sum(), unit->master(), unit->moment1(), unit->moment2());
}

}  // namespace mtp::train
