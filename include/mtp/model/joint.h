#pragma once

#include <functional>
#include <span>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/graph/tape.h"
#include "mtp/model/losses.h"
#include "mtp/model/pair.h"
#include "mtp/model/validation_counts.h"

namespace mtp::model {

/// What one forward and backward sees: packed sequences, each position's token and its label.
struct JointInput {
  const ops::Sequences& sequences;
  std::span<const std::int64_t> ids;     // [T]
  std::span<const std::int64_t> labels;  // [T] the next token, or ops::no_label
  /// Whether any of the micro-batches that the ranks work on side by side has images. All ranks then run the images'
  /// encoder, since its weights are gathered: one that has no image runs it on a blank one.
  bool some_have_images = false;
  std::optional<ImageInput> images = {};
  bool some_have_clips = false;  // the same of clips of sound
  std::optional<ClipInput> clips = {};
};

/// Base and drafter together: one base forward, K drafter rounds on its hidden states, keys and values, and the loss
/// Σ_t CE(base) + λ Σ_k β^k CE(round k), divided by the labels of the whole global batch.
/// Source: joint_forward, round_loss_sum and train of the reference.
class Joint {
 public:
  /// The models of `pair`, whose parameters must have their values; it must outlive this.
  Joint(Device& device, const Settings& settings, const Pair& pair);

  /// Whether inputs may have images.
  bool sees_images() const { return base_.vision() != nullptr; }
  /// And clips of sound.
  bool hears() const { return base_.audio() != nullptr; }

  /// Computes the losses, and the gradients into the units. `label_tokens`: base labels of the global batch.
  LossSums forward_backward(const JointInput& input, std::int64_t label_tokens);

  /// Losses and choices as when serving: inputs, masks and head are those of a server, whatever is trained with. The
  /// losses are against the labels. No gradients.
  ValidationSums validate(const JointInput& input);

 private:
  struct Losses {
    Tensor base;
    std::vector<Tensor> rounds;
    std::vector<Tensor> pair_offsets;  // of the base's layers
  };

  Losses forward(Tape& g, const JointInput& input, std::span<const SoftTokens> media, double label_tokens) const;
  /// K rounds on one base forward; `use(hidden_TD, lead)` gets each one's result.
  using RoundUse = std::function<void(const Value& hidden_TD, std::int64_t lead)>;
  void run_rounds(Tape& g, const BaseOutput& base, const RoundAlignment& alignment, const RoundUse& use) const;
  Tensor round_loss(Tape& g, const JointInput& input, const Value& hidden_TD, const BaseOutput& base, std::int64_t lead,
                    float gradient_scale) const;
  /// A round's loss against `labels`, the data's labels of its rows.
  Tensor label_loss(Tape& g, Head head, float gradient_scale, const Value& hidden_TD, const Tensor& labels) const;
  ops::MaskedHead masked_head() const { return drafter_.masked_head(token_ordering_); }
  std::vector<std::int64_t> base_choices(const BaseOutput& base, const Tensor& labels) const;
  std::vector<std::int64_t> serving_choices(const Value& hidden_TD, const Tensor& labels) const;

  Device& device_;
  Settings::Drafter settings_;
  bool recompute_;
  const BaseModel& base_;
  const Drafter& drafter_;
  Tensor token_ordering_;              // [V] int64, or empty
  RoundAlignment training_, serving_;  // as the drafter is trained, and as a server has it
};

}  // namespace mtp::model
