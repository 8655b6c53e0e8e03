#include "mtp/ops/choice.h"

#include "back_ends.h"
#include "head_checks.h"

MTP_BACK_ENDS(projected_choice)
MTP_BACK_ENDS(masked_choice)

namespace mtp::ops {

void projected_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices) {
  check_projection(x, w, labels);
  check_projection(x, w, choices);
  const Device::Within logits(device, MemoryUse::logits);
  MTP_RUN(projected_choice, x, w, labels, choices);
}

void masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& labels,
                   const Tensor& choices) {
  check_projection(x, w, labels);
  check_projection(x, w, choices);
  check_masked_head(head, w);
  const Device::Within logits(device, MemoryUse::logits);
  MTP_RUN(masked_choice, head, x, w, labels, choices);
}

}  // namespace mtp::ops
