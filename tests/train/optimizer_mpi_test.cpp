#include "mtp/train/optimizer.h"

#include <gmock/gmock.h>

namespace mtp::train {
namespace {

using testing::FloatEq;
using testing::FloatNear;
using testing::Pointwise;

/// Two trained units and a frozen one, of two elements each, in which every weight is 1.
class OptimizerTest : public testing::Test {
 protected:
  OptimizerTest() {
    add_unit("first", true, {3, 0});
    add_unit("second", true, {0, -4});
    add_unit("frozen", false, {});
    settings.lr = 0.5;
    settings.weight_decay = 0.1;
    settings.max_grad_norm = 0;
  }

  void add_unit(const std::string& name, bool trained, const std::vector<float>& gradient) {
    units.push_back(
        std::make_unique<parallel::ShardedUnit>(parallel::UnitLayout(name, trained, {{name, {2}, 0}}), sharding));
    parallel::ShardedUnit& unit = *units.back();
    for (int i = 0; i < 2; ++i) unit.master().f32()[i] = 1;
    if (!trained) return;
    device.copy(device.from_host(gradient, {2}), unit.gradient(0));
    unit.reduce_gradients();
  }

  /// The first elements of a shard, of this one rank.
  std::vector<float> values(const Tensor& shard) const {
    std::vector<float> all(static_cast<std::size_t>(shard.elements()));
    device.to_host(shard, all);
    all.resize(2);
    return all;
  }

  Device device{1};
  parallel::Communicator communicator;
  parallel::Sharding sharding{.device = device, .communicator = communicator};
  parallel::Units units;
  Settings::Optimizer settings;
};

TEST_F(OptimizerTest, TheNormIsThatOfAllTrainedUnits) {
  EXPECT_EQ(Optimizer(settings, 0, device, communicator, units).gradient_norm(), 5);
}

TEST_F(OptimizerTest, TheFirstStepMovesByTheRateAgainstTheSignAndDecaysEveryWeight) {
  Optimizer(settings, 0, device, communicator, units).update(0, 0.5, 5);
  // 1 - lr · weight_decay = 0.95; both moments are corrected for their start, so that the gradient's size cancels.
  EXPECT_THAT(values(units[0]->master()), Pointwise(FloatEq(), {0.45f, 0.95f}));
  EXPECT_THAT(values(units[1]->master()), Pointwise(FloatEq(), {0.95f, 1.45f}));
  EXPECT_THAT(values(units[2]->master()), Pointwise(FloatEq(), {1.0f, 1.0f}));
  EXPECT_TRUE(units[0]->gradient_sum().empty());
}

TEST_F(OptimizerTest, GradientsAboveTheLargestNormAreScaledDownToIt) {
  settings.beta1 = 0.5;
  settings.max_grad_norm = 1;
  Optimizer(settings, 0, device, communicator, units).update(0, 0.5, 5);
  EXPECT_THAT(values(units[0]->moment1()), Pointwise(FloatNear(1e-6f), {0.3f, 0.0f}));
}

TEST_F(OptimizerTest, GradientsBelowTheLargestNormStayAsTheyAre) {
  settings.beta1 = 0.5;
  settings.max_grad_norm = 10;
  Optimizer(settings, 0, device, communicator, units).update(0, 0.5, 5);
  EXPECT_THAT(values(units[0]->moment1()), Pointwise(FloatEq(), {1.5f, 0.0f}));
}

}  // namespace
}  // namespace mtp::train
