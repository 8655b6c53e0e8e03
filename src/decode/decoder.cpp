#include "mtp/decode/decoder.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "mtp/ops/rowwise.h"
#include "steps.h"

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

/// Bytes of the text decoder's parameters without the per-layer table, of which a forward reads single rows.
std::int64_t bytes_of_base(const model::Pair& pair, DType dtype) {
  const auto& table = pair.base.per_layer_embedding();
  std::int64_t elements = table ? -num_elements(table->shape()) : 0;
  for (const model::TensorRecord& tensor : pair.base.tensors())
    if (!tensor.unit.empty() && tensor.name.starts_with(pair.base_config.prefix))
      elements += num_elements(tensor.shape);
  return elements * static_cast<std::int64_t>(size_of(dtype));
}

void check(std::span<const std::int64_t> choices) {
  if (std::find(choices.begin(), choices.end(), -1) != choices.end())
    throw Error("the base's logits are not numbers; check its weights");
}

}  // namespace

std::int64_t Completion::accepted() const {
  return std::accumulate(accepted_at.begin(), accepted_at.end(), std::int64_t{0});
}

Decoder::Decoder(Device& device, const model::Pair& pair, const model::Parameters& parameters, Options options)
    : device_(device),
      options_(std::move(options)),
      pair_(pair),
      alignment_(pair.drafter.alignment(serving(options_))),
      dtype_(parameters.units().front()->compute_dtype()),
      bytes_per_forward_(bytes_of_base(pair, dtype_)) {
  // The weights must not be rounded within a replay, whose memory is not kept.
  for (const auto& unit : parameters.units()) MTP_ASSERT(unit->master().dtype() == unit->compute_dtype());
}

Decoder::~Decoder() = default;

Completion Decoder::complete(std::span<const std::int64_t> prompt, bool with_drafter, const Images& images) const {
  const auto start = Clock::now();
  const std::int64_t most = options_.max_new_tokens, most_drafts = with_drafter ? options_.drafts : 0;
  MTP_ASSERT(!prompt.empty() && most > 0);
  auto positions = static_cast<std::int64_t>(prompt.size());  // computed and accepted
  Steps& steps = this->steps(positions + most);
  Completion completion;
  completion.accepted_at.resize(static_cast<std::size_t>(most_drafts));
  Ids& output = completion.output_ids;

  steps.read(prompt, images);
  output = {steps.choice()};  // the last token has no keys and values yet: they come with the next forward
  check(output);
  completion.target_forwards = 1;
  completion.prefill_time = seconds_since(start);

  for (std::int64_t row = 0; !is_end(output.back());) {
    const std::int64_t remaining = most - static_cast<std::int64_t>(output.size());
    if (remaining == 0) break;
    const std::int64_t count = std::min(most_drafts, remaining - 1);
    const Ids drafts = count == 0 ? Ids() : until_end(steps.draft(positions - 1, row, output.back(), count));
    Ids ids{output.back()};
    ids.insert(ids.end(), drafts.begin(), drafts.end());
    const Ids choices = steps.verify(positions, pair_.base.looked_up(ids));
    check(choices);
    const Ids tokens = new_tokens(drafts, choices);
    const auto accepted = static_cast<std::int64_t>(tokens.size()) - 1;
    row = accepted;
    positions += accepted + 1;
    output.insert(output.end(), tokens.begin(), tokens.end());
    ++completion.target_forwards;
    completion.drafted += static_cast<std::int64_t>(drafts.size());
    for (std::int64_t place = 0; place < accepted; ++place) ++completion.accepted_at[place];
    completion.accepted_by_forward.push_back(accepted);
  }
  completion.decode_time = seconds_since(start) - completion.prefill_time;
  return completion;
}

std::vector<float> Decoder::logits_after(std::span<const std::int64_t> prompt, const Images& images) const {
  const Tensor last_1H = steps(static_cast<std::int64_t>(prompt.size())).read(prompt, images);
  const Parameter& embedding = pair_.base.embedding();
  embedding.group().acquire();
  const std::int64_t vocabulary = embedding.shape()[0];
  const Tensor all = device_.empty({1, vocabulary});
  ops::rowwise_linear(device_, last_1H, {embedding.value()}, {all});
  embedding.group().release();
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  device_.to_host(all, logits);
  if (const float cap = pair_.base.soft_cap(); cap > 0)
    for (float& logit : logits) logit = cap * std::tanh(logit / cap);
  return logits;
}

Steps& Decoder::steps(std::int64_t positions) const {
  constexpr std::int64_t granularity = 256;  // so that texts of similar lengths share replays
  if (steps_ == nullptr || steps_->positions() < positions) {
    steps_ = nullptr;
    steps_ = std::make_unique<Steps>(device_, pair_, alignment_, dtype_,
                                     (positions + granularity - 1) / granularity * granularity, options_.drafts + 1);
  }
  return *steps_;
}

/// Nothing is verified after a drafted end token.
Ids Decoder::until_end(Ids drafts) const {
  const auto end = std::find_if(drafts.begin(), drafts.end(), [this](std::int64_t token) { return is_end(token); });
  if (end != drafts.end()) drafts.erase(end + 1, drafts.end());
  return drafts;
}

/// The tokens that a forward gives: the drafts that it would have chosen, and its own choice after them. Nothing comes
/// after an end token, which counts as the forward's own.
Ids Decoder::new_tokens(std::span<const std::int64_t> drafts, std::span<const std::int64_t> choices) const {
  Ids tokens;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    tokens.push_back(choices[i]);
    if (is_end(choices[i]) || i == drafts.size() || drafts[i] != choices[i]) break;
  }
  return tokens;
}

bool Decoder::is_end(std::int64_t token) const {
  return std::find(options_.end_tokens.begin(), options_.end_tokens.end(), token) != options_.end_tokens.end();
}

}  // namespace mtp::decode
