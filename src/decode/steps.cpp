#include "steps.h"

#include "mtp/ops/embedding.h"
#include "mtp/ops/rowwise.h"

namespace mtp::decode {

namespace {

constexpr Graph::Options rowwise{.recording = false, .recompute = false, .rowwise = true};

/// The first rows of a matrix, or elements of a vector.
Tensor first_of(const Tensor& x, std::int64_t rows) {
  Shape shape = x.shape();
  shape[0] = rows;
  return x.slice(0, std::move(shape));
}

}  // namespace

Steps::Steps(Device& device, const hf::TextConfig& config, const model::BaseModel& base, const model::Drafter& drafter,
             DType dtype, std::int64_t positions, std::int64_t most_rows)
    : device_(device),
      base_(base),
      drafter_(drafter),
      cache_(device, config, positions, most_rows, dtype),
      position_(device.empty({1}, DType::i64)),
      row_(device.empty({1}, DType::i64)),
      ids_(device.empty({most_rows}, DType::i64)),
      hidden_(device.empty({most_rows, config.hidden_size}, dtype)),
      choices_(device.empty({most_rows}, DType::i64)) {
  for (int i = 0; i < config.num_hidden_layers; ++i)
    if (const hf::LayerShape& shape = config.layer(i); shape.is_store)
      (shape.is_sliding ? stores_.sliding : stores_.full) = cache_.ring(i);
}

Tensor Steps::read(std::span<const std::int64_t> prompt) {
  const auto rows = static_cast<std::int64_t>(prompt.size());
  Graph g(device_, {.recording = false});
  const Graph::Scope table = g.scope(*base_.embedding().group);
  const Tensor ids = device_.from_host(prompt);
  const Tensor hidden_TH = base_.forward(g, ops::Sequences({rows}), ids, cache_).hidden_TH.data;
  const std::int64_t width = hidden_TH.size(1);
  device_.copy(hidden_TH.slice((rows - 1) * width, {1, width}), first_of(hidden_, 1));
  return first_of(hidden_, 1);
}

std::int64_t Steps::choice() {
  Graph g(device_, {.recording = false});
  const Graph::Scope table = g.scope(*base_.embedding().group);
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
  Graph g(device_, rowwise);
  const Graph::Scope table = g.scope(*base_.embedding().group);
  const auto sequences = ops::Sequences::continuing(position_, rows);
  const model::BaseOutput out = base_.forward(g, sequences, first_of(ids_, rows), cache_);
  device_.copy(out.hidden_TH.data, first_of(hidden_, rows));
  choose(rows);
}

void Steps::choose(std::int64_t rows) {
  ops::rowwise_choice(device_, first_of(hidden_, rows), base_.embedding().value(), -1, first_of(choices_, rows));
}

void Steps::queue_draft(std::int64_t count) {
  Graph g(device_, rowwise);
  const std::vector<Graph::Scope> opened = drafter_.open(g);
  const auto last_position = ops::Sequences::continuing(position_, 1);
  const Tensor head = drafter_.embedding().value();
  Value state_1H = g.constant(device_.empty({1, hidden_.size(1)}, hidden_.dtype()));
  ops::lookup_forward(device_, hidden_, row_, 1, state_1H.data);
  Tensor token = first_of(ids_, 1);
  for (std::int64_t round = 0; round < count; ++round) {
    const Value hidden_1D = drafter_.round(g, last_position, base_.embed(g, token), state_1H, stores_);
    token = choices_.slice(round, {1});
    // A drafter may be broken without a harm to the text: it then drafts token 0.
    if (drafter_.serving_head() == Head::dense)
      ops::rowwise_choice(device_, hidden_1D.data, head, 0, token);
    else
      ops::rowwise_masked_choice(device_, drafter_.masked_head(), hidden_1D.data, head, token);
    if (round + 1 < count) state_1H = drafter_.next_state(g, hidden_1D);
  }
}

}  // namespace mtp::decode
