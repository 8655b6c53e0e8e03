#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mtp/decode/sampling.h"
#include "mtp/model/pair.h"
#include "mtp/model/parameters.h"

namespace mtp::decode {

class Steps;

struct Options {
  std::int64_t batch = 1;  // texts at a time
  std::int64_t drafts = 4;
  std::int64_t max_new_tokens = 256;
  std::int64_t position_offset = 1;           // of the drafter's queries from the position whose state they have
  std::vector<std::int64_t> end_tokens = {};  // empty: a text ends with its last new token only
  Sampling sampling = {};
};

/// What came after a prompt, and what it took.
struct Completion {
  std::vector<std::int64_t> output_ids;  // an end token included
  std::int64_t target_forwards = 0;      // that it had a part in, the prefill included
  double prefill_time = 0;               // seconds that the prompt took, until its first new token
  double decode_time = 0;                // seconds of the steps after it, each shared evenly by the texts of the step
  std::int64_t drafted = 0;
  std::vector<std::int64_t>
      accepted_at;  // [drafts] how often the draft at this place was accepted; none without drafter
  /// How many drafts each forward after the prefill accepted; its own token comes behind them.
  std::vector<std::int64_t> accepted_by_forward;
  std::int64_t accepted() const;
};

/// What a prompt shows and sounds, if anything; what it refers to must live until the text is complete.
struct Media {
  std::optional<model::ImageInput> images = {};
  std::optional<model::ClipInput> clips = {};
};

/// A prompt to go on from.
struct Request {
  std::int64_t number = 0;  // the caller's own; what is sampled depends on it
  std::vector<std::int64_t> prompt;
  Media media = {};
  std::optional<std::int64_t> max_new_tokens = {};  // none: that of the options
};

/// Decoding of several texts at a time: greedily, of the tokens with the largest logits (of equal ones the lowest), or
/// sampled.
///
/// The prefill's forward over the prompt gives the first new token. Every further forward of the base gives one token
/// more than it accepts of the drafts that it verifies: min(drafts, tokens that may still come - 1) of them, fewer
/// where an end token was drafted. Greedy tokens are those of decoding one text without drafts, to the last: the
/// prefill is the same, and whatever is computed after it is a function of its own row and of what was accepted before
/// (ops/rowwise.h). Sampled ones have the distribution of those without drafts; with or without, they depend on the
/// seed, the text's number and its prompt, not on what is decoded beside it (decode/sampling.h).
class Decoder {
 public:
  /// `parameters`: of the pair, loaded, all on this process. Both must outlive it.
  Decoder(Device& device, const model::Pair& pair, const model::Parameters& parameters, Options options);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Asked whenever there is room: none where there is nothing to do now; it is asked again once a text is complete.
  using Next = std::function<std::optional<Request>()>;
  using Done = std::function<void(const Request&, Completion)>;

  /// Completes whatever `next` gives, up to `batch` texts at a time: one that is complete makes room at once. Returns
  /// when none is left and `next` gives none. `with_drafter`: or the base alone. Throws Error where the base's logits
  /// are no numbers.
  void run(const Next& next, const Done& done, bool with_drafter) const;

  /// The same for one text.
  Completion complete(std::span<const std::int64_t> prompt, bool with_drafter, const Media& media = {}) const;

  /// The base's logits after a prompt, soft-capped where it has a cap.   [V]
  std::vector<float> logits_after(std::span<const std::int64_t> prompt, const Media& media = {}) const;

  /// The bytes of parameters that a forward of the base reads.
  std::int64_t bytes_per_forward() const { return bytes_per_forward_; }

 private:
  struct Text;
  using Texts = std::vector<std::unique_ptr<Text>>;  // by their place in the cache; null: there is room

  Steps& steps(std::int64_t positions) const;
  std::unique_ptr<Text> begin(Request request, std::int64_t place, bool with_drafter) const;
  void step(Texts& texts, bool with_drafter) const;
  void draft(Texts& texts) const;
  void draw_drafts(std::span<Text* const> drafting, std::int64_t round, std::span<const float> logits) const;
  void take(Text& text, const std::vector<std::int64_t>& tokens, std::int64_t first_row) const;
  Distribution of_base(std::span<const float> logits) const;
  bool is_complete(const Text& text) const;
  std::int64_t remaining(const Text& text) const;
  std::vector<std::int64_t> until_end(std::span<const std::int64_t> drafts) const;
  std::vector<std::int64_t> new_tokens(std::span<const std::int64_t> drafts,
                                       std::span<const std::int64_t> choices) const;
  std::vector<std::int64_t> drawn_tokens(const Text& text, std::span<const float> logits) const;
  bool is_end(std::int64_t token) const;

  Device& device_;
  Options options_;
  const model::Pair& pair_;
  model::RoundAlignment alignment_;
  DType dtype_;
  std::int64_t bytes_per_forward_;
  mutable std::unique_ptr<Steps> steps_;  // made with the first text
};

}  // namespace mtp::decode
