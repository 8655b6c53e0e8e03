#pragma once

#include "mtp/ops/cross_entropy.h"

namespace mtp::ops {

// The token that an output projection would choose: the one with the largest logit, of equal ones the lowest. Logits
// exist for a chunk of rows at a time. A soft cap does not change the order of logits, so there is none. Rows without a
// label cost nothing and get `no_label`. x and w are fp32 or bf16, logits fp32. The bits do not depend on the number of
// threads.

/// Among all tokens.   x [T, H], w [V, H], labels [T] int64 (label or no_label), choices [T] int64, written
void projected_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices);

/// Among the tokens that the masked head selects, each of which scores above all that are not.
void masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& labels,
                   const Tensor& choices);

}  // namespace mtp::ops
