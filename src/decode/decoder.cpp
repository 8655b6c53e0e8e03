#include "mtp/decode/decoder.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

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

void check(bool are_numbers) {
  if (!are_numbers) throw Error("the base's logits are not numbers; check its weights");
}

void check(std::span<const std::int64_t> choices) { check(std::ranges::count(choices, -1) == 0); }

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

/// A text on its way.
struct Decoder::Text {
  Request request;
  std::int64_t place;      // in the cache
  std::int64_t most;       // new tokens
  std::int64_t positions;  // computed and accepted; the last token has no keys and values yet
  std::int64_t state;      // row of the base's state that the drafter begins with
  Draws draws;
  Ids drafts = {};
  std::vector<Distribution> drafted_from = {};  // each of them, where they are drawn
  Completion completion = {};

  Ids& output() { return completion.output_ids; }
  const Ids& output() const { return completion.output_ids; }
};

void Decoder::run(const Next& next, const Done& done, bool with_drafter) const {
  Texts texts(static_cast<std::size_t>(options_.batch));
  const auto make_room = [&](std::unique_ptr<Text>& text) {
    if (text == nullptr || !is_complete(*text)) return;
    const std::unique_ptr<Text> complete = std::move(text);
    done(complete->request, std::move(complete->completion));
  };
  for (;;) {
    for (std::int64_t place = 0; place < options_.batch; ++place)
      while (texts[place] == nullptr) {
        std::optional<Request> request = next();
        if (!request) break;
        texts[place] = begin(*std::move(request), place, with_drafter);
        make_room(texts[place]);
      }
    if (std::ranges::none_of(texts, [](const auto& text) { return text != nullptr; })) return;
    step(texts, with_drafter);
    for (std::unique_ptr<Text>& text : texts) make_room(text);
  }
}

Completion Decoder::complete(std::span<const std::int64_t> prompt, bool with_drafter, const Media& media) const {
  std::optional<Request> request(std::in_place, 0, Ids(prompt.begin(), prompt.end()), media);
  Completion completion;
  run([&] { return std::exchange(request, std::nullopt); },
      [&](const Request&, Completion all) { completion = std::move(all); }, with_drafter);
  return completion;
}

std::unique_ptr<Decoder::Text> Decoder::begin(Request request, std::int64_t place, bool with_drafter) const {
  const auto start = Clock::now();
  const auto positions = static_cast<std::int64_t>(request.prompt.size());
  const std::int64_t most = request.max_new_tokens.value_or(options_.max_new_tokens);
  MTP_ASSERT(positions > 0 && most > 0);
  Steps& steps = this->steps(positions + most);
  const Draws draws(options_.sampling.seed, request.number);
  auto text = std::make_unique<Text>(Text{std::move(request), place, most, positions, steps.state_of(place), draws});
  if (with_drafter) text->completion.accepted_at.resize(static_cast<std::size_t>(options_.drafts));
  steps.read(place, text->request.prompt, text->request.media);
  if (options_.sampling.is_greedy()) {
    text->output() = {steps.choice(place)};
    check(text->output());
  } else {
    text->output() = {draw(of_base(steps.logits(place)), draws(positions, Draws::Use::token))};
  }
  text->completion.target_forwards = 1;
  text->completion.prefill_time = seconds_since(start);
  return text;
}

void Decoder::step(Texts& texts, bool with_drafter) const {
  const auto start = Clock::now();
  if (with_drafter) draft(texts);
  std::vector<Steps::Row> rows;
  for (const auto& text : texts) {
    if (text == nullptr) continue;
    Ids ids{text->output().back()};
    ids.insert(ids.end(), text->drafts.begin(), text->drafts.end());
    std::int64_t position = text->positions;
    for (const std::int64_t id : pair_.base.looked_up(ids)) rows.push_back({text->place, position++, id});
  }
  Ids choices;
  std::vector<float> logits;
  if (options_.sampling.is_greedy()) {
    choices = steps_->verify(rows);
    check(choices);
  } else {
    logits = steps_->verify_logits(rows);
  }
  const auto of_rows = [&](const auto& all, std::size_t first, std::size_t count) {
    const std::size_t width = all.size() / rows.size();
    return std::span(all).subspan(first * width, count * width);
  };
  std::size_t row = 0, active = 0;
  for (const auto& text : texts) {
    if (text == nullptr) continue;
    const std::size_t count = text->drafts.size() + 1;
    take(*text,
         options_.sampling.is_greedy() ? new_tokens(text->drafts, of_rows(choices, row, count))
                                       : drawn_tokens(*text, of_rows(logits, row, count)),
         static_cast<std::int64_t>(row));
    row += count;
    ++active;
  }
  const double share = seconds_since(start) / static_cast<double>(active);
  for (const auto& text : texts)
    if (text != nullptr) text->completion.decode_time += share;
}

/// Fills `drafts` of all texts. Those that may go on for few tokens only take the first ones of as many as others.
void Decoder::draft(Texts& texts) const {
  std::vector<Steps::Start> starts;
  std::vector<Text*> drafting;
  std::int64_t most = 0;
  for (const auto& text : texts) {
    if (text == nullptr) continue;
    text->drafts.clear();
    text->drafted_from.clear();
    const std::int64_t count = std::min(options_.drafts, remaining(*text) - 1);
    if (count == 0) continue;
    drafting.push_back(text.get());
    starts.push_back({text->place, text->positions - 1, text->output().back(), text->state});
    most = std::max(most, count);
  }
  if (starts.empty()) return;
  if (options_.sampling.is_greedy()) {
    const Ids drafts = steps_->draft(starts, most);
    for (std::size_t i = 0; i < drafting.size(); ++i) {
      const auto own = std::span(drafts).subspan(i * most, most);
      drafting[i]->drafts.assign(own.begin(), own.end());
    }
  } else {
    steps_->draft(starts, most, [&](std::int64_t round, std::span<const float> logits) {
      draw_drafts(drafting, round, logits);
      Ids drawn;
      for (const Text* text : drafting) drawn.push_back(text->drafts.back());
      return drawn;
    });
  }
  for (Text* text : drafting) {
    const std::int64_t count = std::min(options_.drafts, remaining(*text) - 1);
    text->drafts = until_end(std::span(text->drafts).first(count));
  }
}

/// Each text's next draft.   logits [texts, V]
void Decoder::draw_drafts(std::span<Text* const> drafting, std::int64_t round, std::span<const float> logits) const {
  const std::size_t vocabulary = logits.size() / drafting.size();
  for (std::size_t i = 0; i < drafting.size(); ++i) {
    Text& text = *drafting[i];
    Distribution q = distribution(options_.sampling, logits.subspan(i * vocabulary, vocabulary));
    // A drafter may be broken without a harm to the text: it then drafts token 0.
    if (q.tokens.empty()) q = {.tokens = {0}, .probabilities = {1}};
    text.drafts.push_back(draw(q, text.draws(text.positions + 1 + round, Draws::Use::draft)));
    text.drafted_from.push_back(std::move(q));
  }
}

/// Goes on by the tokens that a forward gives a text, whose first row was `first_row`.
void Decoder::take(Text& text, const Ids& tokens, std::int64_t first_row) const {
  const auto accepted = static_cast<std::int64_t>(tokens.size()) - 1;
  text.state = first_row + accepted;
  text.positions += accepted + 1;
  text.output().insert(text.output().end(), tokens.begin(), tokens.end());
  Completion& completion = text.completion;
  ++completion.target_forwards;
  completion.drafted += std::ssize(text.drafts);
  for (std::int64_t place = 0; place < accepted; ++place) ++completion.accepted_at[place];
  completion.accepted_by_forward.push_back(accepted);
}

std::int64_t Decoder::remaining(const Text& text) const { return text.most - std::ssize(text.output()); }

bool Decoder::is_complete(const Text& text) const { return remaining(text) == 0 || is_end(text.output().back()); }

std::vector<float> Decoder::logits_after(std::span<const std::int64_t> prompt, const Media& media) const {
  Steps& steps = this->steps(static_cast<std::int64_t>(prompt.size()));
  steps.read(0, prompt, media);
  return steps.logits(0);
}

/// The device's part, with room for so many positions of a text.
Steps& Decoder::steps(std::int64_t positions) const {
  if (steps_ == nullptr)
    steps_ = std::make_unique<Steps>(device_, pair_, alignment_, dtype_,
                                     Cache::Size{.texts = options_.batch, .most_rows = options_.drafts + 1});
  steps_->reserve(positions);
  return *steps_;
}

/// Nothing is verified after a drafted end token.
Ids Decoder::until_end(std::span<const std::int64_t> drafts) const {
  const auto end = std::find_if(drafts.begin(), drafts.end(), [this](std::int64_t token) { return is_end(token); });
  return {drafts.begin(), end == drafts.end() ? end : end + 1};
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

/// The same where they are drawn: the drafts that are accepted, and one token after them.   logits [drafts + 1, V]
Ids Decoder::drawn_tokens(const Text& text, std::span<const float> logits) const {
  const std::size_t vocabulary = logits.size() / (text.drafts.size() + 1);
  Ids tokens;
  for (std::size_t i = 0; i <= text.drafts.size(); ++i) {
    const auto random = [&](Draws::Use use) {
      return text.draws(text.positions + 1 + static_cast<std::int64_t>(i), use);
    };
    const Distribution p = of_base(logits.subspan(i * vocabulary, vocabulary));
    const bool is_drafted = i < text.drafts.size();
    if (is_drafted && accepts(p, text.drafted_from[i], text.drafts[i], random(Draws::Use::acceptance))) {
      tokens.push_back(text.drafts[i]);
      if (is_end(tokens.back())) break;
      continue;
    }
    tokens.push_back(draw(is_drafted ? residual(p, text.drafted_from[i]) : p, random(Draws::Use::token)));
    break;
  }
  return tokens;
}

Distribution Decoder::of_base(std::span<const float> logits) const {
  Distribution p = distribution(options_.sampling, logits);
  check(!p.tokens.empty());
  return p;
}

bool Decoder::is_end(std::int64_t token) const {
  return std::find(options_.end_tokens.begin(), options_.end_tokens.end(), token) != options_.end_tokens.end();
}

}  // namespace mtp::decode
