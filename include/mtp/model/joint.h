#pragma once

#include <functional>
#include <span>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/hf/config.h"
#include "mtp/model/base_model.h"
#include "mtp/model/drafter.h"

namespace mtp::model {

/// What one forward and backward sees: packed sequences, each position's token and the one asked for.
struct JointInput {
  const ops::Sequences& sequences;
  std::span<const std::int64_t> ids;     // [T]
  std::span<const std::int64_t> labels;  // [T] the next token, or ops::no_label
};

/// Summed cross-entropies of a micro-batch.
struct LossSums {
  double base = 0;
  std::vector<double> rounds;  // [K]
};

/// What a validation counts in one round, over the positions at which the round has a label.
struct RoundCounts {
  std::int64_t labels = 0;
  std::int64_t right = 0;   // its choice is the label
  std::int64_t agreed = 0;  // its choice is the base's own choice for that place
};

/// What a validation adds up of a micro-batch.
struct ValidationSums {
  LossSums losses;
  std::int64_t label_tokens = 0;    // of the base
  std::vector<RoundCounts> rounds;  // [K]
  std::int64_t drafts = 0;          // positions whose K rounds all have labels
  std::int64_t accepted = 0;        // over those positions: rounds before the first that disagrees with the base
  std::int64_t steps = 0;           // those of the positions at which decoding would draft
  std::int64_t step_tokens = 0;     // that these steps give: the accepted drafts and one more each
};

/// Base and drafter together: one base forward, K drafter rounds on its hidden states, keys and values, and the loss
/// Σ_t CE(base) + λ Σ_k CE(round k), divided by the labels of the whole global batch.
/// Source: joint_forward, round_loss_sum and train of the reference.
class Joint {
 public:
  Joint(Device& device, const Settings& settings, const hf::Pair& pair, const Parameters& parameters);

  /// Computes the losses, and the gradients into the units. `label_tokens`: base labels of the global batch.
  LossSums forward_backward(const JointInput& input, std::int64_t label_tokens);

  /// Losses and choices as when serving: inputs, masks and head are those of a server, whatever is trained with. The
  /// losses are against the labels. No gradients.
  ValidationSums validate(const JointInput& input);

 private:
  struct Losses {
    Tensor base;
    std::vector<Tensor> rounds;
  };

  Losses forward(Graph& g, const JointInput& input, double label_tokens) const;
  /// K rounds of a drafter on one base forward; `use(hidden_TD, lead)` gets each one's result.
  using RoundUse = std::function<void(const Value& hidden_TD, std::int64_t lead)>;
  void run_rounds(Graph& g, const ops::Sequences& sequences, const BaseOutput& base, const Drafter& drafter,
                  const RoundUse& use) const;
  Tensor round_loss(Graph& g, const JointInput& input, const Value& hidden_TD, const BaseOutput& base,
                    std::int64_t lead, float gradient_scale) const;
  /// A round's loss against `asked`, the data's labels of its rows.
  Tensor label_loss(Graph& g, Head head, float gradient_scale, const Value& hidden_TD, const ops::Sequences& sequences,
                    const Tensor& asked) const;
  std::vector<std::int64_t> base_choices(const BaseOutput& base, const Tensor& labels) const;
  std::vector<std::int64_t> serving_choices(const Value& hidden_TD, const Tensor& asked) const;

  Device& device_;
  Settings::Drafter settings_;
  bool recompute_;
  float soft_cap_;
  BaseModel base_;
  Drafter drafter_;          // as it is trained
  Drafter serving_drafter_;  // the same parameters with the masks and positions of a server
};

}  // namespace mtp::model
