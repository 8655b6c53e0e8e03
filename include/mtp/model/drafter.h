#pragma once

#include <optional>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/model/base_model.h"

namespace mtp::model {

/// [V] int64 where the pair's drafter has centroids, else empty.
Tensor token_ordering(Device& device, const hf::Pair& pair);

/// The multi-token-prediction drafter: a few decoder layers without keys and values of their own.
/// Source: Gemma4AssistantForCausalLM, Hugging Face modeling_gemma4_assistant.py; masks and positions: design.md §4.
class Drafter {
 public:
  Drafter(const hf::DrafterConfig& config, const Settings::Drafter& settings, const std::vector<float>& layer_scalars,
          const Tensor& token_ordering, const Parameters& parameters);
  Drafter(const Drafter&) = delete;
  Drafter& operator=(const Drafter&) = delete;

  /// Tokens by which round k runs ahead of its row: its input is token t + lead, its label that of row t + lead.
  std::int64_t lead(std::int64_t k) const { return k + first_lead_; }
  /// The drafter's own token table, tied to its output projection.
  const Parameter& embedding() const { return embedding_; }
  /// Opens all its units: they are used in every round and reduced once.
  std::vector<Graph::Scope> open(Graph& g) const;

  /// One round: embeddings of the tokens that are given, and the state of the round before (the base's final hidden
  /// state at first). The result is normed.
  Value round(Graph& g, const ops::Sequences& sequences, const Value& tokens_TH, const Value& state_TH,
              const BaseOutput& base) const;
  /// The next round's state of a round's result.
  Value next_state(Graph& g, const Value& hidden_TD) const { return g.linear(hidden_TD, post_projection_); }
  /// The head that is used when serving: masked where there are centroids.
  Head serving_head() const { return config_.use_ordered_embeddings ? Head::masked : Head::dense; }
  /// The head that picks centroids. Its scope must be open.
  ops::MaskedHead masked_head() const;

 private:
  hf::DrafterConfig config_;
  std::int64_t first_lead_;
  AttentionTypes types_;
  std::vector<DecoderLayer> layers_;
  std::vector<ParameterGroup*> groups_;
  Parameter embedding_, pre_projection_, post_projection_, final_norm_;
  std::optional<Parameter> centroids_;
  Tensor token_ordering_;
};

}  // namespace mtp::model
