#pragma once

#include "mtp/graph/graph.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

/// A layer's feed-forward network, dense and gated: down(gelu(gate n) · (up n)) of n = norm(x).
/// Source: Gemma4TextMLP, Hugging Face modeling_gemma4.py.
class FeedForward {
 public:
  FeedForward(const Tensors& tensors, std::int64_t hidden, std::int64_t inner)
      : gate_proj_(tensors.linear("gate_proj", inner, hidden)),
        up_proj_(tensors.linear("up_proj", inner, hidden)),
        down_proj_(tensors.linear("down_proj", hidden, inner)) {}

  Value forward(Graph& g, const Value& x_TH, const Parameter& norm, float eps) const {
    return g.linear(g.norm_gated_linear(x_TH, norm, eps, gate_proj_, up_proj_), down_proj_);
  }

 private:
  Linear gate_proj_, up_proj_, down_proj_;
};

}  // namespace mtp::model
