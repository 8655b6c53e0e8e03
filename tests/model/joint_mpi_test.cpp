#include "mtp/model/joint.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "mtp/model/make_pair.h"
#include "mtp/model/parameters.h"
#include "mtp/ops/cross_entropy.h"
#include "support/temp_dir.h"

namespace mtp::model {
namespace {

using ops::no_label;
using testing::Each;
using testing::ElementsAre;

/// The tiny pair, on one rank: all its attention to the last 8 tokens or to all, K = 3 rounds.
class JointTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder = new test::TempDir;
    make_pair(hf::presets().front(), 7, folder->path() / "pair");
  }
  static void TearDownTestSuite() {
    delete folder;
    folder = nullptr;
  }

  JointTest() {
    settings.model = {.base = folder->path() / "pair" / "base", .drafter = folder->path() / "pair" / "drafter"};
    settings.drafter.rounds = 3;
  }

  struct Text {
    std::vector<std::int64_t> ids, labels;
  };
  static Text text(std::int64_t rows, std::int64_t first) {
    Text text;
    for (std::int64_t i = 0; i < rows; ++i) {
      text.ids.push_back(first + 7 * i);
      text.labels.push_back(first + 7 * (i + 1));
    }
    return text;
  }

  static std::span<const float> values(const Tensor& tensor) {
    return {tensor.f32(), static_cast<std::size_t>(tensor.elements())};
  }

  /// The pair's units, loaded, and what computes with them.
  struct Trained {
    Trained(Device& on, const parallel::Communicator& communicator, const Settings& settings)
        : pair(settings),
          sharding{.device = on, .communicator = communicator},
          parameters(pair.table, sharding),
          joint(on, settings, pair) {
      parameters.load(pair, on);
    }
    double gradient_norm(const std::string& model) {
      double sum = 0;
      for (const auto& unit : parameters.units())
        if (unit->name().starts_with(model) && unit->trained())
          for (const float value : values(unit->gradient_sum())) sum += double{value} * value;
      return std::sqrt(sum);
    }

    Pair pair;
    parallel::Sharding sharding;
    Parameters parameters;
    Joint joint;
  };
  Trained trained() { return Trained(device, communicator, settings); }
  static LossSums losses(Trained& trained, const Text& text, const std::vector<std::int64_t>& lengths) {
    const ops::Sequences sequences(lengths);
    return trained.joint.forward_backward({sequences, text.ids, text.labels}, 1);
  }
  LossSums losses(const Text& text) {
    Trained fresh(device, communicator, settings);
    return losses(fresh, text, {static_cast<std::int64_t>(text.ids.size())});
  }

  static inline test::TempDir* folder = nullptr;
  Device device{2};
  parallel::Communicator communicator;
  Settings settings;
};

TEST_F(JointTest, SequencesOfAMicroBatchDoNotSeeEachOther) {
  const Text a = text(5, 3), b = text(9, 40);
  Text both = a;
  both.ids.insert(both.ids.end(), b.ids.begin(), b.ids.end());
  both.labels.insert(both.labels.end(), b.labels.begin(), b.labels.end());
  Trained together(device, communicator, settings);
  const LossSums sums = losses(together, both, {5, 9}), of_a = losses(a), of_b = losses(b);
  EXPECT_NEAR(sums.base, of_a.base + of_b.base, 1e-4);
  for (std::size_t k = 0; k < 3; ++k) EXPECT_NEAR(sums.rounds[k], of_a.rounds[k] + of_b.rounds[k], 1e-4);
}

TEST_F(JointTest, ARoundHasNoLabelPastTheEnd) {
  const LossSums sums = losses(text(2, 3));  // round k asks for the label k + 1 rows on
  EXPECT_GT(sums.rounds[0], 0);
  EXPECT_THAT(std::vector(sums.rounds.begin() + 1, sums.rounds.end()), Each(0.0));
}

/// A text of 12 rows of which row 6 alone has a label, and another that differs from row 7 on.
class LaterTokens : public JointTest {
 protected:
  LaterTokens() {
    for (std::size_t row = 0; row < one.labels.size(); ++row)
      if (row != 6) one.labels[row] = no_label;
    other = one;
    for (std::size_t row = 7; row < other.ids.size(); ++row) other.ids[row] += 100;
  }
  Text one = text(12, 3), other;
};

TEST_F(LaterTokens, ChangeNoLossOfWhatAServerGives) {
  const LossSums a = losses(one), b = losses(other);
  EXPECT_EQ(a.base, b.base);
  EXPECT_EQ(a.rounds, b.rounds);
}

TEST_F(LaterTokens, AreSeenByTheRoundsOfPr2240) {
  settings.drafter.alignment = Alignment::pr2240;
  const LossSums a = losses(one), b = losses(other);
  EXPECT_EQ(a.base, b.base);
  for (std::size_t k = 0; k < 3; ++k) EXPECT_NE(a.rounds[k], b.rounds[k]) << "round " << k;
}

TEST_F(JointTest, RecomputationGivesTheSameBits) {
  const Text input = text(20, 3);
  Trained kept = trained();
  settings.train.recompute = true;
  Trained recomputed = trained();
  EXPECT_EQ(losses(kept, input, {20}).rounds, losses(recomputed, input, {20}).rounds);
  EXPECT_GT(kept.gradient_norm("base"), 0);
  for (std::size_t u = 0; u < kept.parameters.units().size(); ++u) {
    const auto &a = *kept.parameters.units()[u], &b = *recomputed.parameters.units()[u];
    if (!a.trained()) continue;
    EXPECT_TRUE(std::ranges::equal(values(a.gradient_sum()), values(b.gradient_sum()))) << a.name();
  }
}

TEST_F(JointTest, TheRoundsReachTheBaseWithTheirWeight) {
  settings.drafter.loss_weight = 0;
  Trained alone = trained();
  losses(alone, text(20, 3), {20});
  EXPECT_EQ(alone.gradient_norm("drafter"), 0);
  settings.drafter.loss_weight = 1;
  Trained both = trained();
  losses(both, text(20, 3), {20});
  EXPECT_GT(both.gradient_norm("drafter"), 0);
  EXPECT_NE(both.gradient_norm("base"), alone.gradient_norm("base"));
}

TEST_F(JointTest, DetachedRoundsLeaveTheBaseAsItIsAlone) {
  const auto base_gradients = [](Trained& trained) {
    std::vector<float> all;
    for (const auto& unit : trained.parameters.units())
      if (unit->name().starts_with("base"))
        all.insert(all.end(), values(unit->gradient_sum()).begin(), values(unit->gradient_sum()).end());
    return all;
  };
  settings.drafter.loss_weight = 1;
  Trained attached = trained();
  const LossSums attached_losses = losses(attached, text(20, 3), {20});
  settings.drafter.detach = true;
  Trained detached = trained();
  EXPECT_EQ(losses(detached, text(20, 3), {20}).rounds, attached_losses.rounds);
  EXPECT_EQ(detached.gradient_norm("drafter"), attached.gradient_norm("drafter"));
  EXPECT_NE(base_gradients(detached), base_gradients(attached));
  settings.drafter.loss_weight = 0;
  settings.drafter.detach = false;
  Trained alone = trained();
  losses(alone, text(20, 3), {20});
  EXPECT_EQ(base_gradients(detached), base_gradients(alone));
}

TEST_F(JointTest, AFrozenBaseHasNoGradientAndTheSameLosses) {
  const LossSums with_base = losses(text(20, 3));
  settings.freeze.base = true;
  Trained frozen = trained();
  const LossSums sums = losses(frozen, text(20, 3), {20});
  EXPECT_EQ(sums.base, with_base.base);
  EXPECT_EQ(sums.rounds, with_base.rounds);
  EXPECT_EQ(frozen.gradient_norm("base"), 0);
  EXPECT_GT(frozen.gradient_norm("drafter"), 0);
}

TEST_F(JointTest, NewAdaptersChangeNothingAndAreAllThatLearns) {
  const LossSums without = losses(text(20, 3));
  settings.lora.rank = 4;
  for (const Adapted on : {Adapted::base, Adapted::both}) {
    settings.lora.on = on;
    Trained adapted = trained();
    const LossSums sums = losses(adapted, text(20, 3), {20});
    EXPECT_EQ(sums.base, without.base);
    EXPECT_EQ(sums.rounds, without.rounds);
    for (const TensorInfo& tensor : adapted.pair.table.tensors()) {
      if (tensor.role == Role::carried) continue;
      const bool is_adapter = tensor.name.find(".lora_") != std::string::npos,
                 is_whole = on == Adapted::base && tensor.name.starts_with("drafter.") &&
                            tensor.name.find("centroids") == std::string::npos;
      EXPECT_EQ(tensor.parameter.trained(), is_adapter || is_whole) << tensor.name;
    }
    EXPECT_GT(adapted.gradient_norm("base"), 0);
    EXPECT_GT(adapted.gradient_norm("drafter"), 0);
  }
}

TEST_F(JointTest, AdaptersBeginAsInPeftByTheSeedOfTheRun) {
  settings.lora.rank = 3;
  const auto begin = [&](const std::string& name) {
    const Pair pair(settings);
    std::vector<float> values(static_cast<std::size_t>(num_elements(pair.table.find(name).shape)));
    pair.read(name, 0, values);
    return values;
  };
  const std::string layer = "base.model.language_model.layers.0.self_attn.q_proj.";
  EXPECT_THAT(begin(layer + "lora_B.weight"), Each(0.0f));
  const std::vector<float> a = begin(layer + "lora_A.weight");
  const float bound = 1.0f / std::sqrt(static_cast<float>(a.size() / 3));
  EXPECT_LE(std::ranges::max(a), bound);
  EXPECT_GE(std::ranges::min(a), -bound);
  EXPECT_GT(std::ranges::max(a), 0.9f * bound);
  EXPECT_LT(std::ranges::min(a), -0.9f * bound);
  settings.run.seed = 1;
  EXPECT_NE(begin(layer + "lora_A.weight"), a);
}

TEST_F(JointTest, ValidationHasTheLossesOfTheHeadThatServes) {
  settings.drafter.head = Head::masked;
  const Text input = text(20, 3);
  const LossSums sums = losses(input);
  settings.drafter.head = Head::dense;
  settings.drafter.alignment = Alignment::pr2240;  // whatever it is trained with
  const ops::Sequences sequences({20});
  Trained any = trained();
  const ValidationSums validated = any.joint.validate({sequences, input.ids, input.labels});
  EXPECT_EQ(validated.label_tokens, 20);
  EXPECT_EQ(validated.losses.base, sums.base);
  EXPECT_EQ(validated.losses.rounds, sums.rounds);
}

TEST_F(JointTest, WithOneRoundNothingLeadsToTheNext) {
  const auto role = [](const Drafter& drafter) {
    return std::ranges::find(drafter.tensors(), "post_projection.weight", &TensorRecord::name)->role;
  };
  EXPECT_EQ(role(Pair(settings).drafter), Role::trained);
  settings.drafter.rounds = 1;
  EXPECT_EQ(role(Pair(settings).drafter), Role::frozen);
}

TEST_F(JointTest, RoundsRunAheadByTheirAlignment) {
  const Pair pair(settings);
  const auto leads = [&] {
    const RoundAlignment alignment = pair.drafter.alignment(settings.drafter);
    return std::vector<std::int64_t>{alignment.lead(0), alignment.lead(1), alignment.lead(2)};
  };
  EXPECT_THAT(leads(), ElementsAre(1, 2, 3));
  settings.drafter.alignment = Alignment::pr2240;
  EXPECT_THAT(leads(), ElementsAre(0, 1, 2));
}

}  // namespace
}  // namespace mtp::model
