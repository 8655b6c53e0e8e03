#pragma once

#include <span>
#include <string>
#include <vector>

#include "mtp/core/json.h"
#include "mtp/decode/decoder.h"

namespace mtp::decode {

/// What came of all prompts, decoded in one way.
struct DecodeResult {
  std::int64_t drafts = 0;                  // for one forward of the base; 0: without the drafter
  std::vector<std::string> kinds;           // [prompts] what each is; empty where nothing says
  std::vector<std::int64_t> prompt_tokens;  // [prompts]
  std::vector<Completion> completions;      // [prompts]

  std::int64_t prompts() const { return static_cast<std::int64_t>(completions.size()); }
  std::int64_t new_tokens() const;
  std::int64_t target_forwards() const;
  std::int64_t drafted() const;
  std::int64_t accepted() const;
  std::vector<std::int64_t> accepted_at() const;
  double prefill_time() const;
  double decode_time() const;
  /// Of decoding: without each prompt's first token, which comes with the prefill. 0 where there is no other.
  double tokens_per_second() const;
  /// The prefills included.
  double tokens_per_forward() const;
  /// Forwards after the prefills.
  std::int64_t decode_forwards() const { return target_forwards() - prompts(); }
  /// Of the prompts of one kind.
  DecodeResult of_kind(const std::string& kind) const;
};

/// The one that decodes most tokens a second.
const DecodeResult& fastest(std::span<const DecodeResult> runs);

/// "aggregate", "kinds" and "prompts" as docs/files.md describes them.
Json to_json(const DecodeResult& run);
/// Without the prompts.
Json summary(const DecodeResult& run);

/// What the screen shows: a column for each way. `bytes_per_forward`: of the base's parameters.
std::string to_table(std::span<const DecodeResult> runs, std::int64_t bytes_per_forward);

}  // namespace mtp::decode
