#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/model/base_model.h"
#include "mtp/ops/cross_entropy.h"

namespace mtp::model {

/// How the rounds see the text: masks, rotary embeddings, and how far a round runs ahead of its row. See
/// docs/alignment.md.
struct RoundAlignment {
  AttentionTypes types;
  std::int64_t first_lead;

  /// Tokens by which round k runs ahead of its row: its input is token t + lead, its label that of row t + lead.
  std::int64_t lead(std::int64_t k) const { return k + first_lead; }
};

/// The multi-token-prediction drafter: a few decoder layers without keys and values of their own.
/// Source: Gemma4AssistantForCausalLM, Hugging Face modeling_gemma4_assistant.py; masks and positions:
/// docs/alignment.md.
class Drafter {
 public:
  /// Declares its tensors. `rounds`: of training; with one, nothing uses what leads to the next. With adapters its own
  /// parameters are frozen.
  Drafter(const hf::DrafterConfig& config, std::int64_t rounds, const Settings::Lora& lora = {});

  const std::vector<TensorRecord>& tensors() const { return records_; }
  /// What it needs of the files beside its parameters. Throws Error.
  void read_buffers(const hf::TensorFiles& files);

  /// Of `alignment` and `position_offset`.
  RoundAlignment alignment(const Settings::Drafter& settings) const;
  /// Its own token table, tied to its output projection.
  const Parameter& embedding() const { return embedding_; }
  /// Opens all its units: they are used in every round and reduced once.
  std::vector<Graph::Scope> open(Graph& g) const;

  /// `count` rounds on a base's states [T, H] and stores. Round k is given `tokens(k)`, the base's embeddings of its
  /// tokens [T, H], and `use(k, hidden_TD)` gets its result, which is normed, before the next one begins.
  using TokensOf = std::function<Value(std::int64_t k)>;
  using Use = std::function<void(std::int64_t k, const Value& hidden_TD)>;
  void run_rounds(Graph& g, const RoundAlignment& alignment, std::int64_t count, Value state_TH, const Stores& stores,
                  const TokensOf& tokens, const Use& use) const;

  /// The head that is used when serving: masked where there are centroids.
  Head serving_head() const { return centroids_ ? Head::masked : Head::dense; }
  /// The head that picks centroids. Its scope must be open. `ordering`: `token_ordering` on the device.
  ops::MaskedHead masked_head(const Tensor& ordering) const;
  /// The tokens in the order of their centroids, a permutation [V]; empty without centroids.
  const std::vector<std::int64_t>& token_ordering() const { return token_ordering_; }

 private:
  Value round(Graph& g, const RoundAlignment& alignment, const Value& tokens_TH, const Value& state_TH,
              const Stores& stores) const;

  hf::DrafterConfig config_;
  std::vector<TensorRecord> records_;
  std::vector<DecoderLayer> layers_;
  Parameter embedding_, final_norm_;
  Linear pre_projection_, post_projection_;
  std::optional<Parameter> centroids_;
  Buffer ordering_buffer_;
  std::vector<std::int64_t> token_ordering_;
  std::vector<Parameter> parameters_;
};

}  // namespace mtp::model
