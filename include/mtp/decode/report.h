#pragma once

#include <string>
#include <vector>

#include "mtp/core/json.h"
#include "mtp/decode/decoder.h"

namespace mtp::decode {

/// What came of all prompts, decoded in one way.
struct DecodeResult {
  std::vector<std::int64_t> prompt_tokens;  // [prompts]
  std::vector<Completion> completions;      // [prompts]

  std::int64_t prompts() const { return static_cast<std::int64_t>(completions.size()); }
  std::int64_t new_tokens() const;
  std::int64_t target_forwards() const;
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
};

/// "aggregate" and "prompts" as docs/files.md describes them; `with_drafter`: also what was drafted.
Json to_json(const DecodeResult& run, bool with_drafter);

/// What the screen shows. Either may be null. `bytes_per_forward`: of the base's parameters.
std::string to_table(const DecodeResult* plain, const DecodeResult* drafted, std::int64_t bytes_per_forward);

}  // namespace mtp::decode
