#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "mtp/decode/decoder.h"
#include "mtp/generate/answers.h"
#include "mtp/generate/conversations.h"

namespace mtp::generate {

/// How far an answer may go.
struct Limits {
  std::int64_t new_tokens = 256;
  std::int64_t positions = 0;                 // of a whole conversation: what both models have
  std::vector<std::int64_t> end_tokens = {};  // an answer without one was cut off
  std::vector<std::int64_t> refused = {};     // media tokens, which neither contexts nor answers have
};

/// Answers conversations, several at a time: each turn behind what stands before it, own answers in place of those of
/// the data. A conversation ends with an answer that was cut off (a media token cuts it too), or where there is no
/// position left. Its tokens depend
/// on its number and on the decoder's options (but for the batch), not on what is answered beside it.
class Generator {
 public:
  /// All must outlive it. The decoder's end tokens are those of the limits.
  Generator(const decode::Decoder& decoder, const Conversations& conversations, const Limits& limits)
      : decoder_(decoder), conversations_(conversations), limits_(limits) {}

  using Done = std::function<void(std::int64_t conversation, const Answers& answers)>;
  /// Begins the conversations of these numbers in their order; they are done in another.
  void answer(std::span<const std::int64_t> numbers, bool with_drafter, const Done& done) const;

 private:
  struct Conversation;
  bool can_go_on(const Conversation& conversation) const;

  const decode::Decoder& decoder_;
  const Conversations& conversations_;
  const Limits& limits_;
};

/// A conversation with its answers, which are its targets, as far as it was answered.
data::Sample sample_of(const std::vector<Conversations::Ids>& contexts, const Answers& answers);

}  // namespace mtp::generate
