#include "mtp/model/joint.h"

#include <numeric>

#include "mtp/ops/choice.h"

namespace mtp::model {

namespace {

/// The row of the base that a round's row learns from: `by` further on, where the round has a label.
std::vector<std::int64_t> teacher_rows(const ops::Sequences& sequences, std::span<const std::int64_t> round_labels,
                                       std::int64_t by) {
  std::vector<std::int64_t> rows(round_labels.size(), -1);
  for (std::int64_t row = 0; row < sequences.rows(); ++row)
    if (round_labels[row] != ops::no_label) rows[row] = row + by;
  return rows;
}

/// The runs of a base's encoders on a micro-batch's images and sound, as far as they run. `learns`: and go back through
/// those that are trained, which then always run: whoever has no image or no clip adds zeros to their gradients.
class Perception {
 public:
  Perception(Device& device, const BaseModel& base, const JointInput& input, bool learns, bool recompute) {
    const auto run = [&](const auto* encoder, bool some_have, const auto& media, auto& pass) {
      MTP_ASSERT(encoder != nullptr || !some_have);
      const bool goes_back = learns && encoder != nullptr && encoder->trained();
      if (!goes_back && !some_have) return;
      pass.emplace(device, *encoder, media, Tape::Options{.recording = goes_back, .recompute = recompute});
    };
    run(base.vision(), input.some_have_images, input.images, images_);
    run(base.audio(), input.some_have_clips, input.clips, clips_);
  }

  std::vector<SoftTokens> soft_tokens() const {
    std::vector<SoftTokens> all;
    if (images_ && images_->soft_tokens()) all.push_back(*images_->soft_tokens());
    if (clips_ && clips_->soft_tokens()) all.push_back(*clips_->soft_tokens());
    return all;
  }

  /// After the backward of what used the soft tokens.
  void backward() {
    if (images_) images_->backward();
    if (clips_) clips_->backward();
  }

 private:
  std::optional<VisionPass> images_;
  std::optional<AudioPass> clips_;
};

/// What the rounds are given where no gradient of theirs is to reach the base.
BaseOutput without_gradients(BaseOutput base) {
  base.embeddings_TH.gradient = base.hidden_TH.gradient = nullptr;
  for (std::optional<KeyValue>* store : {&base.stores.full, &base.stores.sliding})
    if (*store) (*store)->key.gradient = (*store)->value.gradient = nullptr;
  return base;
}

ops::Distance distance_of(RoundLoss loss) {
  if (loss == RoundLoss::total_variation) return ops::Distance::total_variation;
  return loss == RoundLoss::mixed ? ops::Distance::mixed : ops::Distance::cross_entropy;
}

Settings::Drafter as_served(Settings::Drafter settings) {
  settings.alignment = Alignment::serving;
  return settings;
}

/// Differences of each layer's offsets.
ExpertLoads loads_of(const Device& device, const std::vector<Tensor>& pair_offsets) {
  ExpertLoads loads;
  for (const Tensor& layer : pair_offsets) {
    std::vector<std::int64_t> load = device.ids_to_host(layer);
    std::adjacent_difference(load.begin(), load.end(), load.begin());
    loads.emplace_back(load.begin() + 1, load.end());
  }
  return loads;
}

double to_host(const Device& device, const Tensor& loss) {
  double value = 0;
  device.to_host(loss, {&value, 1});
  return value;
}

}  // namespace

Joint::Joint(Device& device, const Settings& settings, const Pair& pair)
    : device_(device),
      settings_(settings.drafter),
      recompute_(settings.train.recompute),
      base_(pair.base),
      drafter_(pair.drafter),
      training_(drafter_.alignment(settings_)),
      serving_(drafter_.alignment(as_served(settings_))) {
  if (const auto& ordering = drafter_.token_ordering(); !ordering.empty()) token_ordering_ = device.from_host(ordering);
}

LossSums Joint::forward_backward(const JointInput& input, std::int64_t label_tokens) {
  Perception perception(device_, base_, input, true, recompute_);
  Tape tape(device_, input.sequences, {.recording = true, .recompute = recompute_});
  const Losses losses = forward(tape, input, perception.soft_tokens(), static_cast<double>(label_tokens));
  tape.backward();
  perception.backward();

  LossSums sums{
      .base = to_host(device_, losses.base), .rounds = {}, .expert_loads = loads_of(device_, losses.pair_offsets)};
  for (const Tensor& loss : losses.rounds) sums.rounds.push_back(to_host(device_, loss));
  return sums;
}

ValidationSums Joint::validate(const JointInput& input) {
  Tape g(device_, input.sequences, {.recording = false});
  const Tensor labels = device_.from_host(input.labels);
  const Parameter& embedding = base_.embedding();
  const Graph::Scope base_table = g.scope(embedding.group());
  const BaseOutput base =
      base_.forward(g, input.sequences, input.ids, Perception(device_, base_, input, false, recompute_).soft_tokens());

  ValidationSums sums;
  sums.losses.base =
      to_host(device_, g.cross_entropy({.soft_cap = base_.soft_cap()}, base.hidden_TH, embedding, labels));
  for (const std::int64_t label : input.labels) sums.label_tokens += label != ops::no_label;
  ValidationCounter counter(input.sequences, input.labels, base_choices(base, labels));
  run_rounds(g, base, serving_, [&](const Value& hidden_TD, std::int64_t lead) {
    const std::vector<std::int64_t> round_labels = shift_left(input.sequences, input.labels, lead, ops::no_label);
    const Tensor on_device = device_.from_host(round_labels);
    const Tensor loss = label_loss(g, drafter_.serving_head(), 1, hidden_TD, on_device);
    sums.losses.rounds.push_back(to_host(device_, loss));
    sums.rounds.push_back(counter.add_round(round_labels, serving_choices(hidden_TD, on_device), lead));
  });
  counter.finish(sums);
  return sums;
}

std::vector<std::int64_t> Joint::base_choices(const BaseOutput& base, const Tensor& labels) const {
  const Tensor choices = device_.empty(labels.shape(), DType::i64);
  ops::projected_choice(device_, base.hidden_TH.data, base_.embedding().value(), labels, choices);
  return device_.ids_to_host(choices);
}

std::vector<std::int64_t> Joint::serving_choices(const Value& hidden_TD, const Tensor& labels) const {
  const Tensor choices = device_.empty(labels.shape(), DType::i64), head = drafter_.embedding().value();
  if (drafter_.serving_head() == Head::dense)
    ops::projected_choice(device_, hidden_TD.data, head, labels, choices);
  else
    ops::masked_choice(device_, masked_head(), hidden_TD.data, head, labels, choices);
  return device_.ids_to_host(choices);
}

Joint::Losses Joint::forward(Tape& g, const JointInput& input, std::span<const SoftTokens> media,
                             double label_tokens) const {
  const Tensor labels = device_.from_host(input.labels);
  const Parameter& embedding = base_.embedding();
  // Gathered for the output projection alone, whose gradient comes along with the loss.
  const Graph::Scope base_table = g.scope(embedding.group(), Graph::Use::forward_values);

  const BaseOutput base = base_.forward(g, input.sequences, input.ids, media);
  Losses losses{.base = {}, .rounds = {}, .pair_offsets = base.pair_offsets};
  losses.base =
      g.cross_entropy({.soft_cap = base_.soft_cap(), .gradient_scale = static_cast<float>(1.0 / label_tokens)},
                      base.hidden_TH, embedding, labels);

  const BaseOutput given = settings_.detach ? without_gradients(base) : base;
  run_rounds(g, given, training_, [&](const Value& hidden_TD, std::int64_t lead) {
    const auto scale = static_cast<float>(settings_.weight(std::ssize(losses.rounds)) / label_tokens);
    losses.rounds.push_back(round_loss(g, input, hidden_TD, given, lead, scale));
  });
  return losses;
}

void Joint::run_rounds(Tape& g, const BaseOutput& base, const RoundAlignment& alignment, const RoundUse& use) const {
  const std::vector<Graph::Scope> opened = drafter_.open(g);
  const auto tokens = [&](std::int64_t k) {
    return g.shift_rows(base.embeddings_TH, base.fill_row_1H, alignment.lead(k));
  };
  drafter_.run_rounds(g, alignment, settings_.rounds, base.hidden_TH, base.stores, tokens,
                      [&](std::int64_t k, const Value& hidden_TD) { use(hidden_TD, alignment.lead(k)); });
}

Tensor Joint::round_loss(Tape& g, const JointInput& input, const Value& hidden_TD, const BaseOutput& base,
                         std::int64_t by, float gradient_scale) const {
  const ops::Sequences& sequences = input.sequences;
  const std::vector<std::int64_t> labels = shift_left(sequences, input.labels, by, ops::no_label);
  if (settings_.target == Target::data)
    return label_loss(g, settings_.head, gradient_scale, hidden_TD, device_.from_host(labels));
  const ops::CrossEntropy ce{.gradient_scale = gradient_scale};
  const Parameter& head = drafter_.embedding();
  const ops::Teacher teacher{.x = base.hidden_TH.data,
                             .w = base_.embedding().value(),
                             .soft_cap = base_.soft_cap(),
                             .distance = distance_of(settings_.loss)};
  const Tensor rows = device_.from_host(teacher_rows(sequences, labels, by));
  if (settings_.head == Head::dense) return g.distillation(ce, hidden_TD, head, teacher, rows);
  return g.masked_distillation(ce, masked_head(), hidden_TD, head, teacher, rows);
}

Tensor Joint::label_loss(Tape& g, Head head, float gradient_scale, const Value& hidden_TD, const Tensor& labels) const {
  const ops::CrossEntropy ce{.gradient_scale = gradient_scale};  // never a soft-cap on the drafter
  if (head == Head::dense) return g.cross_entropy(ce, hidden_TD, drafter_.embedding(), labels);
  return g.masked_cross_entropy(ce, masked_head(), hidden_TD, drafter_.embedding(), labels);
}

}  // namespace mtp::model
