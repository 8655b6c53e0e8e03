#include "mtp/model/joint.h"

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

Tensor token_ordering(Device& device, const hf::Pair& pair) {
  if (!pair.drafter_config.use_ordered_embeddings) return {};
  return device.from_host(pair.token_ordering);
}

}  // namespace

Joint::Joint(Device& device, const Settings& settings, const hf::Pair& pair, const Parameters& parameters)
    : device_(device),
      settings_(settings.drafter),
      recompute_(settings.train.recompute),
      soft_cap_(pair.base_config.text.final_logit_softcapping.value_or(0)),
      base_(pair.base_config.text, pair.base_layer_scalars, parameters),
      drafter_(pair.drafter_config, settings.drafter, pair.drafter_layer_scalars, token_ordering(device, pair),
               parameters) {}

LossSums Joint::forward_backward(const JointInput& input, std::int64_t label_tokens) {
  Graph graph(device_, {.recording = true, .recompute = recompute_});
  const Losses losses = forward(graph, input, static_cast<double>(label_tokens));
  graph.backward();

  const auto to_host = [&](const Tensor& loss) {
    double value = 0;
    device_.to_host(loss, {&value, 1});
    return value;
  };
  LossSums sums{.base = to_host(losses.base), .rounds = {}};
  for (const Tensor& loss : losses.rounds) sums.rounds.push_back(to_host(loss));
  return sums;
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

  const std::vector<Graph::Scope> drafter = drafter_.open(g);
  const auto round_scale = static_cast<float>(settings_.loss_weight / label_tokens);
  Value state_TH = base.hidden_TH;
  for (std::int64_t k = 0; k < settings_.rounds; ++k) {
    const Value tokens_TH = g.shift_rows(base.embeddings_TH, base.pad_row_1H, lead(k), input.sequences);
    const Value hidden_TD = drafter_.round(g, input.sequences, tokens_TH, state_TH, base);
    losses.rounds.push_back(round_loss(g, input, hidden_TD, base, lead(k), round_scale));
    if (k + 1 < settings_.rounds) state_TH = drafter_.next_state(g, hidden_TD);
  }
  return losses;
}

Tensor Joint::round_loss(Graph& g, const JointInput& input, const Value& hidden_TD, const BaseOutput& base,
                         std::int64_t by, float gradient_scale) const {
  const ops::CrossEntropy ce{.gradient_scale = gradient_scale};  // never a soft-cap on the drafter
  const ops::Sequences& sequences = input.sequences;
  const Parameter& head = drafter_.embedding();
  const std::vector<std::int64_t> labels = shift_left(sequences, input.labels, by, ops::no_label);
  if (settings_.target == Target::data) {
    const Tensor asked = device_.from_host(labels);
    if (settings_.head == Head::dense) return g.cross_entropy(ce, hidden_TD, head, asked);
    return g.masked_cross_entropy(ce, drafter_.masked_head(), hidden_TD, head, sequences, asked);
  }
  const ops::Teacher teacher{.x = base.hidden_TH.data, .w = base_.embedding().value(), .soft_cap = soft_cap_};
  const Tensor rows = device_.from_host(teacher_rows(sequences, labels, by));
  if (settings_.head == Head::dense) return g.distillation(ce, hidden_TD, head, teacher, rows);
  return g.masked_distillation(ce, drafter_.masked_head(), hidden_TD, head, sequences, teacher, rows);
}

}  // namespace mtp::model
