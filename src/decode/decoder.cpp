#include "mtp/decode/decoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "mtp/ops/choice.h"
#include "mtp/ops/rowwise.h"

namespace mtp::decode {

namespace {

using Clock = std::chrono::steady_clock;
using Ids = std::vector<std::int64_t>;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Settings::Drafter serving(const Options& options) {
  Settings::Drafter settings;
  settings.alignment = Alignment::serving;
  settings.position_offset = options.position_offset;
  return settings;
}

/// Bytes of the base's parameters without the per-layer table, of which a forward reads single rows.
std::int64_t bytes_of_base(const model::Parameters& parameters) {
  std::int64_t bytes = 0;
  for (const dist::ShardedUnit* unit : parameters.units_of("base."))
    for (const auto& member : unit->layout().members())
      if (member.name != model::base_per_layer_embedding)
        bytes += member.elements() * static_cast<std::int64_t>(size_of(unit->master().dtype()));
  return bytes;
}

/// Row `row` of a matrix, as one of one row.
Tensor row_of(const Tensor& x, std::int64_t row) { return x.slice(row * x.size(1), {1, x.size(1)}); }

}  // namespace

/// How far a text is. Its last token has no keys and values yet: they come with the next forward.
struct Decoder::Text {
  explicit Text(Cache made) : cache(std::move(made)) {}

  Cache cache;
  std::int64_t positions = 0;  // computed and accepted
  std::int64_t token = -1;     // the last one
  model::BaseOutput base;      // of the last forward
  Tensor state_1H;             // the base's hidden state at the last position
};

std::int64_t Completion::accepted() const {
  return std::accumulate(accepted_at.begin(), accepted_at.end(), std::int64_t{0});
}

Decoder::Decoder(Device& device, const hf::Pair& pair, const model::Parameters& parameters, Options options)
    : device_(device),
      options_(std::move(options)),
      config_(pair.base_config.text),
      bytes_per_forward_(bytes_of_base(parameters)),
      base_(pair.base_config, pair.base_layer_scalars, parameters),
      drafter_(pair.drafter_config, serving(options_), pair.drafter_layer_scalars, model::token_ordering(device, pair),
               parameters) {}

Completion Decoder::complete(std::span<const std::int64_t> prompt, bool with_drafter) const {
  const auto start = Clock::now();
  const std::int64_t most = options_.max_new_tokens, most_drafts = with_drafter ? options_.drafts : 0;
  MTP_ASSERT(!prompt.empty() && most > 0);
  Text text(Cache(device_, config_, static_cast<std::int64_t>(prompt.size()) + most, most_drafts + 1));
  Completion completion;
  completion.accepted_at.resize(static_cast<std::size_t>(most_drafts));

  const auto take = [&](std::span<const std::int64_t> tokens) {
    ++completion.target_forwards;
    completion.output_ids.insert(completion.output_ids.end(), tokens.begin(), tokens.end());
    text.token = tokens.back();
  };
  const Ids first = forward(text, prompt);
  text.positions = static_cast<std::int64_t>(prompt.size());
  text.state_1H = row_of(text.base.hidden_TH.data, text.positions - 1);
  take(std::span(first).last(1));
  completion.prefill_time = seconds_since(start);

  while (!is_end(text.token)) {
    const std::int64_t remaining = most - static_cast<std::int64_t>(completion.output_ids.size());
    if (remaining == 0) break;
    const Ids drafts = draft(text, std::min(most_drafts, remaining - 1));
    Ids ids{text.token};
    ids.insert(ids.end(), drafts.begin(), drafts.end());
    const Ids tokens = given(drafts, forward(text, ids));
    const auto accepted = static_cast<std::int64_t>(tokens.size()) - 1;
    text.positions += accepted + 1;
    text.state_1H = row_of(text.base.hidden_TH.data, accepted);
    take(tokens);
    completion.drafted += static_cast<std::int64_t>(drafts.size());
    for (std::int64_t place = 0; place < accepted; ++place) ++completion.accepted_at[place];
  }
  completion.decode_time = seconds_since(start) - completion.prefill_time;
  return completion;
}

std::vector<float> Decoder::logits_after(std::span<const std::int64_t> prompt) const {
  const auto positions = static_cast<std::int64_t>(prompt.size());
  Text text(Cache(device_, config_, positions, 1));
  forward(text, prompt);
  Graph g(device_, {.recording = false, .recompute = false, .rowwise = true});
  const Graph::Scope table = g.scope(*base_.embedding().group);
  const Value last_1H = g.constant(row_of(text.base.hidden_TH.data, positions - 1));
  std::vector<float> logits(static_cast<std::size_t>(config_.vocab_size));
  device_.to_host(g.linear(last_1H, base_.embedding()).data, logits);
  if (const float cap = config_.final_logit_softcapping.value_or(0); cap > 0)
    for (float& logit : logits) logit = cap * std::tanh(logit / cap);
  return logits;
}

/// The base's choices after each of some tokens that come next; of a whole prompt, after the last one only.
Ids Decoder::forward(Text& text, std::span<const std::int64_t> ids) const {
  const bool is_prefill = text.positions == 0;
  const auto rows = static_cast<std::int64_t>(ids.size());
  Graph g(device_, {.recording = false, .recompute = false, .rowwise = !is_prefill});
  const ops::Sequences sequences = ops::Sequences::continuing(text.positions, rows);
  const Graph::Scope table = g.scope(*base_.embedding().group);
  text.base = base_.forward(g, sequences, ids, &text.cache);
  const Tensor& hidden_TH = text.base.hidden_TH.data;
  return base_choices(is_prefill ? row_of(hidden_TH, rows - 1) : hidden_TH);
}

/// Up to `count` tokens that the drafter expects, none after an end token.
Ids Decoder::draft(const Text& text, std::int64_t count) const {
  Ids drafts;
  if (count == 0) return drafts;
  Graph g(device_, {.recording = false, .recompute = false, .rowwise = true});
  const ops::Sequences last_position = ops::Sequences::continuing(text.positions - 1, 1);
  const std::vector<Graph::Scope> opened = drafter_.open(g);
  Value state_1H = g.constant(text.state_1H);
  for (std::int64_t token = text.token;;) {
    const Value token_1H = base_.embed(g, {&token, 1}).rows;
    const Value hidden_1D = drafter_.round(g, last_position, token_1H, state_1H, text.base);
    token = drafter_choice(hidden_1D.data);
    drafts.push_back(token);
    if (is_end(token) || static_cast<std::int64_t>(drafts.size()) == count) return drafts;
    state_1H = drafter_.next_state(g, hidden_1D);
  }
}

/// The tokens that a forward gives: the drafts that it would have chosen, and its own choice after them. Nothing comes
/// after an end token, which counts as the forward's own.
Ids Decoder::given(std::span<const std::int64_t> drafts, std::span<const std::int64_t> choices) const {
  Ids tokens;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    tokens.push_back(choices[i]);
    if (is_end(choices[i]) || i == drafts.size() || drafts[i] != choices[i]) break;
  }
  return tokens;
}

std::int64_t Decoder::drafter_choice(const Tensor& hidden_1D) const {
  const Tensor choice = device_.empty({1}, DType::i64), head = drafter_.embedding().value();
  if (drafter_.serving_head() == Head::dense) {
    ops::rowwise_choice(device_, hidden_1D, head, choice);
  } else {
    constexpr std::int64_t any_label = 0;
    ops::masked_choice(device_, drafter_.masked_head(), hidden_1D, head, device_.from_host({&any_label, 1}), choice);
  }
  // A drafter may be broken without a harm to the text.
  return std::max<std::int64_t>(0, device_.ids_to_host(choice)[0]);
}

Ids Decoder::base_choices(const Tensor& hidden_TH) const {
  const Tensor choices = device_.empty({hidden_TH.size(0)}, DType::i64);
  ops::rowwise_choice(device_, hidden_TH, base_.embedding().value(), choices);
  const Ids tokens = device_.ids_to_host(choices);
  if (std::find(tokens.begin(), tokens.end(), -1) != tokens.end())
    throw Error("the base's logits are not numbers; check its weights");
  return tokens;
}

bool Decoder::is_end(std::int64_t token) const {
  return std::find(options_.end_tokens.begin(), options_.end_tokens.end(), token) != options_.end_tokens.end();
}

}  // namespace mtp::decode
