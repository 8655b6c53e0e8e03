#pragma once

#include <optional>
#include <utility>

#include "mtp/graph/parameter.h"

namespace mtp {

/// The weights of a linear layer without bias, which may bear a low-rank adapter: y = x wᵀ + scale · (x aᵀ) bᵀ.
/// Source: LoRA, Hu et al., arXiv:2106.09685; names as in PEFT.
struct Linear {
  struct Adapter {
    Parameter a, b;  // [rank, in], [out, rank]
    float scale = 1;
  };

  Linear() = default;
  Linear(Parameter without_adapter) : weight(std::move(without_adapter)) {}  // NOLINT: a weight is a layer

  std::int64_t out() const { return weight.shape()[0]; }

  Parameter weight;  // [out, in]
  std::optional<Adapter> adapter = {};
};

}  // namespace mtp
