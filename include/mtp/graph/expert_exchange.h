#pragma once

#include <cstdint>
#include <vector>

#include "mtp/ops/experts.h"

namespace mtp {

/// Between ranks of which each keeps some of every layer's experts: pairs of a row and an expert go to the expert's
/// rank, instead of the expert's matrices to the rows'. No pair is left out. Collective among these ranks.
class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  /// Where pairs go in a layer.
  struct Routes {
    std::vector<std::int64_t> sent, received;  // pairs to and from each rank
    std::vector<ops::ExpertPairs> pairs;       // those from each rank, of this rank's experts: `rows` has no values
    bool needs_gradient = false;               // of the rows of any rank
  };
  /// `offsets`: of this rank's pairs, see ops::ExpertPairs.
  virtual Routes route(const Tensor& offsets, bool needs_gradient) const = 0;
  /// What this rank's pairs have to their experts' ranks; the result is that of the pairs which come here, one rank's
  /// after the other's.   [pairs, width]
  virtual Tensor send(const Tensor& rows, const Routes& routes) const = 0;
  /// The way back.
  virtual Tensor send_back(const Tensor& rows, const Routes& routes) const = 0;
};

}  // namespace mtp
