#include "mtp/model/joint.h"

#include "mtp/ops/choice.h"

namespace mtp::model {

namespace {

/// Row t of each sequence gets values[t + by], or `fill` past the end.
std::vector<std::int64_t> shift_left(const ops::Sequences& sequences, std::span<const std::int64_t> values,
                                     std::int64_t by, std::int64_t fill) {
  std::vector<std::int64_t> shifted(values.size(), fill);
  for (std::int64_t b = 0; b < sequences.count(); ++b)
    for (std::int64_t row = sequences.begin(b); row + by < sequences.end(b); ++row) shifted[row] = values[row + by];
  return shifted;
}

/// The row of the base that a round's row learns from: `by` further on, where the round has a label.
std::vector<std::int64_t> teacher_rows(const ops::Sequences& sequences, std::span<const std::int64_t> round_labels,
                                       std::int64_t by) {
  std::vector<std::int64_t> rows(round_labels.size(), -1);
  for (std::int64_t row = 0; row < sequences.rows(); ++row)
    if (round_labels[row] != ops::no_label) rows[row] = row + by;
  return rows;
}

Settings::Drafter as_served(Settings::Drafter settings) {
  settings.alignment = Alignment::serving;
  return settings;
}

double to_host(const Device& device, const Tensor& loss) {
  double value = 0;
  device.to_host(loss, {&value, 1});
  return value;
}

/// Counts a micro-batch's choices, round after round.
class Counter {
 public:
  /// `base_choices` [T]: the base's own choice at each row.
  Counter(const JointInput& input, std::vector<std::int64_t> base_choices)
      : input_(input), base_choices_(std::move(base_choices)), all_labels_(input.ids.size(), 1), run_(all_labels_) {}

  /// `labels`, `choices` [T]: of a round that runs ahead of its row by `lead`.
  RoundCounts add_round(std::span<const std::int64_t> labels, std::span<const std::int64_t> choices,
                        std::int64_t lead) {
    const std::vector<std::int64_t> teachers = shift_left(input_.sequences, base_choices_, lead, ops::no_label);
    RoundCounts counts;
    for (std::size_t t = 0; t < labels.size(); ++t) {
      const bool has_label = labels[t] != ops::no_label, agrees = has_label && choices[t] == teachers[t];
      counts.labels += has_label;
      counts.right += has_label && choices[t] == labels[t];
      counts.agreed += agrees;
      all_labels_[t] = all_labels_[t] && has_label;
      run_[t] = run_[t] && agrees;
      accepted_[t] += run_[t];
    }
    return counts;
  }

  /// After the last round.
  void finish(ValidationSums& sums) const {
    for (std::size_t t = 0; t < all_labels_.size(); ++t) {
      if (!all_labels_[t]) continue;
      ++sums.drafts;
      sums.accepted += accepted_[t];
    }
    for (std::int64_t b = 0; b < input_.sequences.count(); ++b) add_steps(input_.sequences, b, sums);
  }

 private:
  /// Goes over a sequence as decoding does: from where its first asked-for token is known, on by what a step gives.
  void add_steps(const ops::Sequences& sequences, std::int64_t b, ValidationSums& sums) const {
    for (std::int64_t t = sequences.begin(b); t < sequences.end(b);) {
      if (input_.labels[t] == ops::no_label || !all_labels_[t]) {
        ++t;
        continue;
      }
      const std::int64_t tokens = accepted_[t] + 1;
      ++sums.steps;
      sums.step_tokens += tokens;
      t += tokens;
    }
  }

  const JointInput& input_;
  std::vector<std::int64_t> base_choices_;
  std::vector<char> all_labels_;  // [T] whether every round so far has a label
  std::vector<char> run_;         // [T] whether every round so far agrees with the base
  std::vector<std::int64_t> accepted_ = std::vector<std::int64_t>(all_labels_.size());  // [T] rounds up to there
};

}  // namespace

Joint::Joint(Device& device, const Settings& settings, const hf::Pair& pair, const Parameters& parameters)
    : device_(device),
      settings_(settings.drafter),
      recompute_(settings.train.recompute),
      soft_cap_(pair.base_config.text.final_logit_softcapping.value_or(0)),
      base_(pair.base_config, pair.base_layer_scalars, parameters),
      drafter_(pair.drafter_config, settings.drafter, pair.drafter_layer_scalars, token_ordering(device, pair),
               parameters),
      serving_drafter_(pair.drafter_config, as_served(settings.drafter), pair.drafter_layer_scalars,
                       token_ordering(device, pair), parameters) {}

LossSums Joint::forward_backward(const JointInput& input, std::int64_t label_tokens) {
  Graph graph(device_, {.recording = true, .recompute = recompute_});
  const Losses losses = forward(graph, input, static_cast<double>(label_tokens));
  graph.backward();

  LossSums sums{.base = to_host(device_, losses.base), .rounds = {}};
  for (const Tensor& loss : losses.rounds) sums.rounds.push_back(to_host(device_, loss));
  return sums;
}

ValidationSums Joint::validate(const JointInput& input) {
  Graph g(device_, {.recording = false, .recompute = false});
  const Tensor labels = device_.from_host(input.labels);
  const Parameter& embedding = base_.embedding();
  const Graph::Scope base_table = g.scope(*embedding.group);
  const BaseOutput base = base_.forward(g, input.sequences, input.ids);

  ValidationSums sums;
  sums.losses.base = to_host(device_, g.cross_entropy({.soft_cap = soft_cap_}, base.hidden_TH, embedding, labels));
  for (const std::int64_t label : input.labels) sums.label_tokens += label != ops::no_label;
  Counter counter(input, base_choices(base, labels));
  run_rounds(g, input.sequences, base, serving_drafter_, [&](const Value& hidden_TD, std::int64_t lead) {
    const std::vector<std::int64_t> round_labels = shift_left(input.sequences, input.labels, lead, ops::no_label);
    const Tensor asked = device_.from_host(round_labels);
    const Tensor loss = label_loss(g, serving_drafter_.serving_head(), 1, hidden_TD, input.sequences, asked);
    sums.losses.rounds.push_back(to_host(device_, loss));
    sums.rounds.push_back(counter.add_round(round_labels, serving_choices(hidden_TD, asked), lead));
  });
  counter.finish(sums);
  return sums;
}

std::vector<std::int64_t> Joint::base_choices(const BaseOutput& base, const Tensor& labels) const {
  const Tensor choices = device_.empty(labels.shape(), DType::i64);
  ops::projected_choice(device_, base.hidden_TH.data, base_.embedding().value(), labels, choices);
  return device_.ids_to_host(choices);
}

std::vector<std::int64_t> Joint::serving_choices(const Value& hidden_TD, const Tensor& asked) const {
  const Tensor choices = device_.empty(asked.shape(), DType::i64), head = serving_drafter_.embedding().value();
  if (serving_drafter_.serving_head() == Head::dense)
    ops::projected_choice(device_, hidden_TD.data, head, asked, choices);
  else
    ops::masked_choice(device_, serving_drafter_.masked_head(), hidden_TD.data, head, asked, choices);
  return device_.ids_to_host(choices);
}

Joint::Losses Joint::forward(Graph& g, const JointInput& input, double label_tokens) const {
  const Tensor labels = device_.from_host(input.labels);
  const Parameter& embedding = base_.embedding();
  // Gathered for the output projection alone, whose gradient comes along with the loss.
  const Graph::Scope base_table = g.scope(*embedding.group, Graph::Use::forward_values);

  const BaseOutput base = base_.forward(g, input.sequences, input.ids);
  Losses losses;
  losses.base = g.cross_entropy({.soft_cap = soft_cap_, .gradient_scale = static_cast<float>(1.0 / label_tokens)},
                                base.hidden_TH, embedding, labels);

  const auto round_scale = static_cast<float>(settings_.loss_weight / label_tokens);
  run_rounds(g, input.sequences, base, drafter_, [&](const Value& hidden_TD, std::int64_t lead) {
    losses.rounds.push_back(round_loss(g, input, hidden_TD, base, lead, round_scale));
  });
  return losses;
}

void Joint::run_rounds(Graph& g, const ops::Sequences& sequences, const BaseOutput& base, const Drafter& drafter,
                       const RoundUse& use) const {
  const std::vector<Graph::Scope> opened = drafter.open(g);
  Value state_TH = base.hidden_TH;
  for (std::int64_t k = 0; k < settings_.rounds; ++k) {
    const Value tokens_TH = g.shift_rows(base.embeddings_TH, base.pad_row_1H, drafter.lead(k), sequences);
    const Value hidden_TD = drafter.round(g, sequences, tokens_TH, state_TH, base);
    use(hidden_TD, drafter.lead(k));
    if (k + 1 < settings_.rounds) state_TH = drafter.next_state(g, hidden_TD);
  }
}

Tensor Joint::round_loss(Graph& g, const JointInput& input, const Value& hidden_TD, const BaseOutput& base,
                         std::int64_t by, float gradient_scale) const {
  const ops::Sequences& sequences = input.sequences;
  const std::vector<std::int64_t> labels = shift_left(sequences, input.labels, by, ops::no_label);
  if (settings_.target == Target::data)
    return label_loss(g, settings_.head, gradient_scale, hidden_TD, sequences, device_.from_host(labels));
  const ops::CrossEntropy ce{.gradient_scale = gradient_scale};
  const Parameter& head = drafter_.embedding();
  const ops::Teacher teacher{.x = base.hidden_TH.data, .w = base_.embedding().value(), .soft_cap = soft_cap_};
  const Tensor rows = device_.from_host(teacher_rows(sequences, labels, by));
  if (settings_.head == Head::dense) return g.distillation(ce, hidden_TD, head, teacher, rows);
  return g.masked_distillation(ce, drafter_.masked_head(), hidden_TD, head, sequences, teacher, rows);
}

Tensor Joint::label_loss(Graph& g, Head head, float gradient_scale, const Value& hidden_TD,
                         const ops::Sequences& sequences, const Tensor& asked) const {
  const ops::CrossEntropy ce{.gradient_scale = gradient_scale};  // never a soft-cap on the drafter
  if (head == Head::dense) return g.cross_entropy(ce, hidden_TD, drafter_.embedding(), asked);
  return g.masked_cross_entropy(ce, drafter_.masked_head(), hidden_TD, drafter_.embedding(), sequences, asked);
}

}  // namespace mtp::model
