#include "mtp/generate/generator.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <utility>

namespace mtp::generate {

using Ids = Conversations::Ids;

/// On its way.
struct Generator::Conversation {
  std::int64_t number = 0;
  std::vector<Ids> contexts;
  Answers answers = {};

  /// All that stands before the next answer.
  Ids prompt() const {
    Ids text;
    for (std::size_t turn = 0; turn <= answers.size(); ++turn) {
      text.insert(text.end(), contexts[turn].begin(), contexts[turn].end());
      if (turn < answers.size()) text.insert(text.end(), answers[turn].begin(), answers[turn].end());
    }
    return text;
  }
};

namespace {

/// A media token stands for what is shown or heard; one that a base chooses stands for nothing, and cannot be learned.
Ids up_to_media(Ids answer, const std::vector<std::int64_t>& media) {
  answer.erase(std::ranges::find_first_of(answer, media), answer.end());
  return answer;
}

}  // namespace

bool Generator::can_go_on(const Conversation& conversation) const {
  const Answers& answers = conversation.answers;
  if (answers.size() == conversation.contexts.size()) return false;
  const bool was_cut = !answers.empty() && std::ranges::count(limits_.end_tokens, answers.back().back()) == 0;
  return !was_cut && std::ssize(conversation.prompt()) < limits_.positions;
}

void Generator::answer(std::span<const std::int64_t> numbers, bool with_drafter, const Done& done) const {
  std::map<std::int64_t, Conversation> begun;  // by number
  std::deque<std::int64_t> waiting;            // for their next answer
  const auto next = [&]() -> std::optional<decode::Request> {
    while (waiting.empty() && !numbers.empty()) {
      const std::int64_t number = numbers.front();
      numbers = numbers.subspan(1);
      Conversation fresh{number, conversations_.contexts(number, limits_.refused)};
      if (can_go_on(fresh)) {
        begun.emplace(number, std::move(fresh));
        waiting.push_back(number);
      } else {
        done(number, {});
      }
    }
    if (waiting.empty()) return std::nullopt;
    const std::int64_t number = waiting.front();
    waiting.pop_front();
    Ids prompt = begun.at(number).prompt();
    const std::int64_t most = std::min(limits_.new_tokens, limits_.positions - std::ssize(prompt));
    return decode::Request{.number = number, .prompt = std::move(prompt), .max_new_tokens = most};
  };
  const auto answered = [&](const decode::Request& request, decode::Completion completion) {
    Conversation& conversation = begun.at(request.number);
    Ids answer = up_to_media(std::move(completion.output_ids), limits_.refused);
    const bool is_answered = !answer.empty();
    if (is_answered) conversation.answers.push_back(std::move(answer));
    if (is_answered && can_go_on(conversation)) {
      waiting.push_back(request.number);
    } else {
      done(request.number, conversation.answers);
      begun.erase(request.number);
    }
  };
  decoder_.run(next, answered, with_drafter);
}

data::Sample sample_of(const std::vector<Ids>& contexts, const Answers& answers) {
  data::Sample sample;
  const auto append = [&](const Ids& ids, bool is_target) {
    sample.tokens.insert(sample.tokens.end(), ids.begin(), ids.end());
    sample.is_target.resize(sample.tokens.size(), is_target);
  };
  for (std::size_t turn = 0; turn < answers.size(); ++turn) {
    append(contexts[turn], false);
    append(answers[turn], true);
  }
  return sample;
}

}  // namespace mtp::generate
