#include "steps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "mtp/ops/embedding.h"

namespace mtp::decode {

namespace {

/// The first rows of a matrix, or elements of a vector.
Tensor first_of(const Tensor& x, std::int64_t rows) {
  Shape shape = x.shape();
  shape[0] = rows;
  return x.slice(0, std::move(shape));
}

}  // namespace

Steps::Steps(Device& device, const model::Pair& pair, const model::RoundAlignment& alignment, DType dtype,
             const Cache::Size& size)
    : device_(device),
      base_(pair.base),
      drafter_(pair.drafter),
      alignment_(alignment),
      config_(pair.base_config.text),
      size_(size),
      cache_(device, config_, size, dtype) {
  const std::int64_t rows = size.texts * size.most_rows;
  for (Tensor* ids : {&positions_, &texts_, &ids_, &choices_}) *ids = device.empty({rows}, DType::i64);
  states_at_ = device.empty({size.texts}, DType::i64);
  states_ = device.empty({rows + size.texts, config_.hidden_size}, dtype);
  if (const auto& ordering = drafter_.token_ordering(); !ordering.empty()) token_ordering_ = device.from_host(ordering);
  find_stores();
}

void Steps::find_stores() {
  for (int i = 0; i < config_.num_hidden_layers; ++i)
    if (const hf::LayerShape& shape = config_.layer(i); shape.is_store) stores_.of(shape) = cache_.rings(i);
}

void Steps::reserve(std::int64_t positions) {
  constexpr std::int64_t granularity = 256;  // so that texts of similar lengths share replays
  if (positions <= cache_.positions()) return;
  verify_.clear();
  forward_.clear();
  draft_.clear();
  cache_.reserve((positions + granularity - 1) / granularity * granularity);
  find_stores();
}

Tensor Steps::state(std::int64_t row) const {
  return states_.slice(row * config_.hidden_size, {1, config_.hidden_size});
}

ops::RowPlaces Steps::places(std::int64_t rows) const {
  return {.positions = first_of(positions_, rows), .texts = first_of(texts_, rows)};
}

template <typename T>
void Steps::write(std::span<const T> rows, std::int64_t T::*member, const Tensor& to) const {
  Ids values;
  for (const T& row : rows) values.push_back(row.*member);
  device_.write(values, first_of(to, std::ssize(values)));
}

void Steps::read(std::int64_t text, std::span<const std::int64_t> prompt, const Media& media) {
  const Tape::Options forward_alone{.recording = false};
  std::vector<model::SoftTokens> soft;
  if (media.images)
    soft.push_back(*model::VisionPass(device_, *base_.vision(), media.images, forward_alone).soft_tokens());
  if (media.clips) soft.push_back(*model::AudioPass(device_, *base_.audio(), media.clips, forward_alone).soft_tokens());
  const auto rows = static_cast<std::int64_t>(prompt.size());
  const ops::Sequences sequences({rows});
  PromptGraph g(device_, sequences, cache_, text);
  const Graph::Scope table = g.scope(base_.embedding().group());
  const Tensor hidden_TH = base_.forward(g, sequences, prompt, soft).hidden_TH.data;
  const std::int64_t width = hidden_TH.size(1);
  device_.copy(hidden_TH.slice((rows - 1) * width, {1, width}), state(state_of(text)));
}

std::int64_t Steps::choice(std::int64_t text) {
  RowwiseGraph g(device_, places(1), cache_);
  const Graph::Scope table = g.scope(base_.embedding().group());
  const Tensor chosen = first_of(choices_, 1);
  choose(state(state_of(text)), chosen);
  return device_.ids_to_host(chosen)[0];
}

void Steps::write_rows(std::span<const Row> rows) {
  write(rows, &Row::position, positions_);
  write(rows, &Row::text, texts_);
  write(rows, &Row::token, ids_);
}

void Steps::write_starts(std::span<const Start> starts) {
  write(starts, &Start::position, positions_);
  write(starts, &Start::text, texts_);
  write(starts, &Start::token, ids_);
  write(starts, &Start::state, states_at_);
}

Steps::Ids Steps::verify(std::span<const Row> rows) {
  write_rows(rows);
  const std::int64_t count = std::ssize(rows);
  verify_.try_emplace(count, device_, [this, count] { queue_verify(count); }).first->second.run();
  return device_.ids_to_host(first_of(choices_, count));
}

Steps::Logits Steps::verify_logits(std::span<const Row> rows) {
  write_rows(rows);
  const std::int64_t count = std::ssize(rows);
  const auto queue = [this, count] {
    RowwiseGraph g(device_, places(count), cache_);
    queue_forward(g, count);
  };
  forward_.try_emplace(count, device_, queue).first->second.run();
  return base_logits(first_of(states_, count));
}

Steps::Ids Steps::draft(std::span<const Start> starts, std::int64_t count) {
  write_starts(starts);
  const DraftSize size{std::ssize(starts), count};
  draft_.try_emplace(size, device_, [this, size] { queue_draft(size); }).first->second.run();
  const Ids of_rounds = device_.ids_to_host(first_of(choices_, size.starts * count));
  Ids of_starts;
  for (std::int64_t start = 0; start < size.starts; ++start)
    for (std::int64_t round = 0; round < count; ++round) of_starts.push_back(of_rounds[round * size.starts + start]);
  return of_starts;
}

void Steps::draft(std::span<const Start> starts, std::int64_t count, const Draw& draw) {
  write_starts(starts);
  const DraftSize size{std::ssize(starts), count};
  RowwiseGraph g(device_, places(size.starts), cache_);
  run_rounds(g, size, [&](std::int64_t round, const Value& hidden_TD) {
    device_.write(draw(round, drafter_logits(hidden_TD.data)), choices_.slice(round * size.starts, {size.starts}));
  });
}

void Steps::queue_verify(std::int64_t rows) {
  RowwiseGraph g(device_, places(rows), cache_);
  const Graph::Scope table = g.scope(base_.embedding().group());
  queue_forward(g, rows);
  choose(first_of(states_, rows), first_of(choices_, rows));
}

void Steps::queue_forward(RowwiseGraph& g, std::int64_t rows) {
  const model::BaseOutput out = base_.forward(g, Tokens::on_device(first_of(ids_, rows)));
  device_.copy(out.hidden_TH.data, first_of(states_, rows));
}

void Steps::choose(const Tensor& states, const Tensor& choices) {
  ops::rowwise_choice(device_, states, base_.embedding().value(), -1, choices);
}

void Steps::queue_draft(const DraftSize& size) {
  RowwiseGraph g(device_, places(size.starts), cache_);
  run_rounds(g, size, [&](std::int64_t round, const Value& hidden_TD) {
    const Tensor choices = choices_.slice(round * size.starts, {size.starts}), head = drafter_.embedding().value();
    // A drafter may be broken without a harm to the text: it then drafts token 0.
    if (drafter_.serving_head() == Head::dense)
      ops::rowwise_choice(device_, hidden_TD.data, head, 0, choices);
    else
      ops::rowwise_masked_choice(device_, drafter_.masked_head(token_ordering_), hidden_TD.data, head, choices);
  });
}

/// `use` puts the choices of a round where the next one reads them.
void Steps::run_rounds(RowwiseGraph& g, const DraftSize& size, const model::Drafter::Use& use) {
  const std::vector<Graph::Scope> opened = drafter_.open(g);
  const Value state_TH = g.constant(device_.empty({size.starts, config_.hidden_size}, states_.dtype()));
  ops::lookup_forward(device_, states_, first_of(states_at_, size.starts), 1, state_TH.data);
  const auto tokens = [&](std::int64_t round) {
    return base_.embed(g, Tokens::on_device(round == 0 ? first_of(ids_, size.starts)
                                                       : choices_.slice((round - 1) * size.starts, {size.starts})));
  };
  drafter_.run_rounds(g, alignment_, size.count, state_TH, stores_, tokens, use);
}

Steps::Logits Steps::logits(std::int64_t text) { return base_logits(state(state_of(text))); }

Steps::Logits Steps::base_logits(const Tensor& states) {
  const Parameter& embedding = base_.embedding();
  embedding.group().acquire();
  Logits logits = product(states, embedding.value());
  embedding.group().release();
  if (const float cap = base_.soft_cap(); cap > 0)
    for (float& logit : logits) logit = cap * std::tanh(logit / cap);
  return logits;
}

/// [rows, V] of the drafter's last states, whose scope is open.
Steps::Logits Steps::drafter_logits(const Tensor& states) {
  Logits logits = product(states, drafter_.embedding().value());
  if (drafter_.serving_head() == Head::dense) return logits;
  const ops::MaskedHead head = drafter_.masked_head(token_ordering_);
  const Logits of_centroids = product(states, head.centroids);
  const std::int64_t vocabulary = drafter_.embedding().shape()[0], centroids = head.centroids.size(0);
  const std::vector<std::int64_t>& ordering = drafter_.token_ordering();
  for (std::int64_t row = 0; row < states.size(0); ++row) {
    Ids order(static_cast<std::size_t>(centroids));
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater(), [&](std::int64_t c) {
      const float logit = of_centroids[row * centroids + c];
      return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
    });
    for (std::int64_t i = head.top_k; i < centroids; ++i)
      for (std::int64_t token = order[i] * vocabulary / centroids; token < (order[i] + 1) * vocabulary / centroids;
           ++token)
        logits[row * vocabulary + ordering[token]] = -std::numeric_limits<float>::infinity();
  }
  return logits;
}

/// x wᵀ.
Steps::Logits Steps::product(const Tensor& x, const Tensor& w) {
  const Tensor y = device_.empty({x.size(0), w.size(0)});
  ops::rowwise_linear(device_, x, {w}, {y});
  Logits values(static_cast<std::size_t>(y.elements()));
  device_.to_host(y, values);
  return values;
}

}  // namespace mtp::decode
