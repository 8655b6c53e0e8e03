#pragma once

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

/// Base and drafter together: one base forward, K drafter rounds on its hidden states, keys and values, and the loss
/// Σ_t CE(base) + λ Σ_k CE(round k), divided by the labels of the whole global batch.
/// Source: joint_forward, round_loss_sum and train of the reference.
class Joint {
 public:
  Joint(Device& device, const Settings& settings, const hf::Pair& pair, const Parameters& parameters);

  /// Computes the losses, and the gradients into the units. `label_tokens`: base labels of the global batch.
  LossSums forward_backward(const JointInput& input, std::int64_t label_tokens);

 private:
  struct Losses {
    Tensor base;
    std::vector<Tensor> rounds;
  };

  Losses forward(Graph& g, const JointInput& input, double label_tokens) const;
  Tensor round_loss(Graph& g, const JointInput& input, const Value& hidden_TD, const BaseOutput& base,
                    std::int64_t lead, float gradient_scale) const;
  /// Tokens by which round k runs ahead of its row: its input is token t + lead, its label that of row t + lead.
  std::int64_t lead(std::int64_t k) const { return k + (settings_.alignment == Alignment::serving ? 1 : 0); }

  Device& device_;
  Settings::Drafter settings_;
  bool recompute_;
  float soft_cap_;
  BaseModel base_;
  Drafter drafter_;
};

}  // namespace mtp::model
