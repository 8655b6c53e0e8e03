#pragma once

#include <cmath>

#include "mtp/graph/graph.h"
#include "mtp/hf/config.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

/// Chooses the experts of each row, in fp32 whatever is computed with: in bf16, near-ties would fall the other way.
/// Source: Gemma4TextRouter, Hugging Face modeling_gemma4.py.
class Router {
 public:
  Router(const Tensors& tensors, const hf::TextConfig& config)
      : chosen_(config.top_k_experts),
        factor_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.hidden_size)))),
        proj_(tensors.logits("proj", config.num_experts, config.hidden_size)),
        scale_(tensors.factors("scale", config.hidden_size)),
        per_expert_scale_(tensors.factors("per_expert_scale", config.num_experts)) {}

  Graph::Routing forward(Graph& g, const Value& x_TH, float eps) const {
    const Value normed_TH = g.scale(g.rms_norm(g.convert(x_TH, DType::f32), scale_, eps), factor_);
    return g.choose_experts(g.linear(normed_TH, proj_), chosen_, per_expert_scale_);
  }

 private:
  std::int64_t chosen_;
  float factor_;
  Parameter proj_, scale_, per_expert_scale_;
};

/// What a layer may have beside its dense feed-forward: a mixture of small ones, a few of which each row goes to.
/// Their matrices are most of a model, and a unit of their own.
/// Source: Gemma4TextExperts and Gemma4TextDecoderLayer, Hugging Face modeling_gemma4.py.
class Experts {
 public:
  /// `tensors`: those of the layer.
  Experts(const Tensors& tensors, const hf::TextConfig& config)
      : post_dense_norm_(tensors.vector("post_feedforward_layernorm_1", config.hidden_size)),
        pre_norm_(tensors.vector("pre_feedforward_layernorm_2", config.hidden_size)),
        post_norm_(tensors.vector("post_feedforward_layernorm_2", config.hidden_size)),
        router_(tensors.below("router."), config),
        gate_up_proj_(in_own_unit(tensors).matrices("gate_up_proj", config.num_experts,
                                                    2 * config.moe_intermediate_size, config.hidden_size)),
        down_proj_(in_own_unit(tensors).matrices("down_proj", config.num_experts, config.hidden_size,
                                                 config.moe_intermediate_size)) {}

  struct Output {
    Value x_TH;
    Tensor pair_offsets;  // ops::ExpertPairs::offsets, of whole sequences
  };
  /// norm(dense) + norm(Σ weight · expert(norm(x))); the router reads x itself.
  Output add_to(Graph& g, const Value& dense_TH, const Value& x_TH, float eps) const {
    const Graph::Routing routing = router_.forward(g, x_TH, eps);
    const Value mixed_TH = g.experts(g.rms_norm(x_TH, pre_norm_, eps), routing, gate_up_proj_, down_proj_);
    return {g.add_rms_norm(g.rms_norm(dense_TH, post_dense_norm_, eps), mixed_TH, post_norm_, eps),
            routing.pairs.offsets};
  }

 private:
  static Tensors in_own_unit(const Tensors& tensors) { return tensors.below("experts.").in_own_unit("experts"); }

  Parameter post_dense_norm_, pre_norm_, post_norm_;
  Router router_;
  Parameter gate_up_proj_, down_proj_;
};

}  // namespace mtp::model
