#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "mtp/decode/decoder.h"
#include "mtp/decode/rowwise_graph.h"
#include "mtp/model/pair.h"
#include "mtp/tensor/replay.h"

namespace mtp::decode {

/// What decoding computes on the device, of some texts at a time: each one's prompt, then steps of all of them that are
/// replayed, one replay for every number of rows. The host writes places and tokens before a step and waits once, for
/// its choices.
class Steps {
 public:
  using Ids = std::vector<std::int64_t>;

  /// `size`: of the cache; `drafts`: of a text, at most. What is passed by reference must outlive it.
  Steps(Device& device, const model::Pair& pair, const model::RoundAlignment& alignment, DType dtype,
        const Cache::Size& size);
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  /// Makes room for texts of so many positions.
  void reserve(std::int64_t positions);

  /// A token of a text that the base looks up.
  struct Row {
    std::int64_t text, position, token;
  };
  /// Where the drafter begins: after `token` of a text, from the base's state in row `state` of those that were
  /// verified last, or in `state_of` its text, which has the given position.
  struct Start {
    std::int64_t text, position, token, state;
  };

  /// Begins a text, with what it shows and sounds.
  void read(std::int64_t text, std::span<const std::int64_t> prompt, const Media& media);
  /// The row of the state that `read` leaves, until the text's next one.
  std::int64_t state_of(std::int64_t text) const { return size_.texts * size_.most_rows + text; }
  /// The base's choice after what `read` read; -1: its logits are no numbers.
  std::int64_t choice(std::int64_t text);
  /// The base's choices after each row.
  Ids verify(std::span<const Row> rows);
  /// `count` tokens that the drafter expects after each start, one start's after the other's.
  Ids draft(std::span<const Start> starts, std::int64_t count);

  // The same where the host chooses by the logits, which are soft-capped where the base has a cap.

  using Logits = std::vector<float>;
  Logits logits(std::int64_t text);                 // [V]
  Logits verify_logits(std::span<const Row> rows);  // [rows, V]
  /// Tokens of all starts by the logits of a round; other logits than those that a masked head scores are infinitely
  /// low.   logits [starts, V]
  using Draw = std::function<Ids(std::int64_t round, std::span<const float> logits)>;
  /// The rounds wait for each other's draws and are not replayed.
  void draft(std::span<const Start> starts, std::int64_t count, const Draw& draw);

 private:
  struct DraftSize {
    std::int64_t starts, count;
    auto operator<=>(const DraftSize&) const = default;
  };
  void queue_verify(std::int64_t rows);
  void queue_forward(RowwiseGraph& g, std::int64_t rows);
  void queue_draft(const DraftSize& size);
  void run_rounds(RowwiseGraph& g, const DraftSize& size, const model::Drafter::Use& use);
  void choose(const Tensor& states, const Tensor& choices);
  void write_rows(std::span<const Row> rows);
  void write_starts(std::span<const Start> starts);
  Logits base_logits(const Tensor& states);
  Logits drafter_logits(const Tensor& states);
  Logits product(const Tensor& x, const Tensor& w);
  void find_stores();
  ops::RowPlaces places(std::int64_t rows) const;
  Tensor state(std::int64_t row) const;
  template <typename T>
  void write(std::span<const T> rows, std::int64_t T::*member, const Tensor& to) const;

  Device& device_;
  const model::BaseModel& base_;
  const model::Drafter& drafter_;
  const model::RoundAlignment& alignment_;
  const hf::TextConfig& config_;
  const Cache::Size size_;
  Tensor token_ordering_;  // [V] int64; empty without centroids
  Cache cache_;
  model::Stores stores_;  // the rings that the drafter attends to

  // What steps read and write, for as many rows as all texts have at most:
  Tensor positions_, texts_, ids_;  // [rows] int64
  Tensor states_at_;                // [texts] int64: rows of `states_`, where the drafter begins
  Tensor states_;                   // [rows + texts, H] the base's final hidden states of rows, and after prompts
  Tensor choices_;                  // [rows] int64

  std::map<std::int64_t, Replay> verify_, forward_;
  std::map<DraftSize, Replay> draft_;
};

}  // namespace mtp::decode
