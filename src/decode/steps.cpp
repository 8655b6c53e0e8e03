#include "steps.h"

#include "mtp/decode/rowwise_graph.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/rowwise.h"

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
             std::int64_t positions, std::int64_t most_rows)
    : device_(device),
      base_(pair.base),
      drafter_(pair.drafter),
      alignment_(alignment),
      cache_(device, pair.base_config.text, positions, most_rows, dtype),
      position_(device.empty({1}, DType::i64)),
      row_(device.empty({1}, DType::i64)),
      ids_(device.empty({most_rows}, DType::i64)),
      hidden_(device.empty({most_rows, pair.base_config.text.hidden_size}, dtype)),
      choices_(device.empty({most_rows}, DType::i64)) {
  if (const auto& ordering = drafter_.token_ordering(); !ordering.empty()) token_ordering_ = device.from_host(ordering);
  const hf::TextConfig& config = pair.base_config.text;
  for (int i = 0; i < config.num_hidden_layers; ++i)
    if (const hf::LayerShape& shape = config.layer(i); shape.is_store) stores_.of(shape) = cache_.ring(i);
}

Tensor Steps::read(std::span<const std::int64_t> prompt, const std::optional<model::ImageInput>& images) {
  std::optional<model::SoftTokens> soft_tokens;
  if (images) soft_tokens = model::VisionPass(device_, *base_.vision(), images, {.recording = false}).soft_tokens();
  const auto rows = static_cast<std::int64_t>(prompt.size());
  const ops::Sequences sequences({rows});
  PromptGraph g(device_, sequences, cache_);
  const Graph::Scope table = g.scope(base_.embedding().group());
  const Tensor hidden_TH = base_.forward(g, sequences, prompt, soft_tokens).hidden_TH.data;
  const std::int64_t width = hidden_TH.size(1);
  device_.copy(hidden_TH.slice((rows - 1) * width, {1, width}), first_of(hidden_, 1));
  return first_of(hidden_, 1);
}

std::int64_t Steps::choice() {
  RowwiseGraph g(device_, position_, cache_);
  const Graph::Scope table = g.scope(base_.embedding().group());
  choose(1);
  std::int64_t token = -1;
  device_.to_host(first_of(choices_, 1), {&token, 1});
  return token;
}

Steps::Ids Steps::verify(std::int64_t position, std::span<const std::int64_t> ids) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  device_.write({&position, 1}, position_);
  device_.write(ids, first_of(ids_, rows));
  return run(verify_, rows, &Steps::queue_verify);
}

Steps::Ids Steps::draft(std::int64_t position, std::int64_t row, std::int64_t token, std::int64_t count) {
  device_.write({&position, 1}, position_);
  device_.write({&row, 1}, row_);
  device_.write({&token, 1}, first_of(ids_, 1));
  return run(draft_, count, &Steps::queue_draft);
}

Steps::Ids Steps::run(std::map<std::int64_t, Replay>& replays, std::int64_t size, void (Steps::*queue)(std::int64_t)) {
  replays.try_emplace(size, device_, [this, size, queue] { (this->*queue)(size); }).first->second.run();
  Ids chosen(static_cast<std::size_t>(size));
  device_.to_host(first_of(choices_, size), chosen);
  return chosen;
}

void Steps::queue_verify(std::int64_t rows) {
  RowwiseGraph g(device_, position_, cache_);
  const Graph::Scope table = g.scope(base_.embedding().group());
  const model::BaseOutput out = base_.forward(g, Tokens::on_device(first_of(ids_, rows)));
  device_.copy(out.hidden_TH.data, first_of(hidden_, rows));
  choose(rows);
}

void Steps::choose(std::int64_t rows) {
  ops::rowwise_choice(device_, first_of(hidden_, rows), base_.embedding().value(), -1, first_of(choices_, rows));
}

void Steps::queue_draft(std::int64_t count) {
  RowwiseGraph g(device_, position_, cache_);
  const std::vector<Graph::Scope> opened = drafter_.open(g);
  const Tensor head = drafter_.embedding().value();
  const Value state_1H = g.constant(device_.empty({1, hidden_.size(1)}, hidden_.dtype()));
  ops::lookup_forward(device_, hidden_, row_, 1, state_1H.data);
  const auto tokens = [&](std::int64_t round) {
    return base_.embed(g, Tokens::on_device(round == 0 ? first_of(ids_, 1) : choices_.slice(round - 1, {1})));
  };
  drafter_.run_rounds(g, alignment_, count, state_1H, stores_, tokens, [&](std::int64_t round, const Value& hidden_1D) {
    const Tensor choice = choices_.slice(round, {1});
    // A drafter may be broken without a harm to the text: it then drafts token 0.
    if (drafter_.serving_head() == Head::dense)
      ops::rowwise_choice(device_, hidden_1D.data, head, 0, choice);
    else
      ops::rowwise_masked_choice(device_, drafter_.masked_head(token_ordering_), hidden_1D.data, head, choice);
  });
}

}  // namespace mtp::decode
