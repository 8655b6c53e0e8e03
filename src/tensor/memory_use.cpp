#include "mtp/tensor/memory_use.h"

#include "mtp/core/error.h"

namespace mtp {

std::string to_string(MemoryUse use) {
  switch (use) {
    case MemoryUse::weights:
      return "weights";
    case MemoryUse::rounded_weights:
      return "rounded weights";
    case MemoryUse::moments:
      return "moments";
    case MemoryUse::gradient_sums:
      return "gradient sums";
    case MemoryUse::gradients:
      return "gradients of units";
    case MemoryUse::gathered:
      return "gathered weights";
    case MemoryUse::activations:
      return "activations";
    case MemoryUse::logits:
      return "logits";
    case MemoryUse::operations:
      return "within operations";
    case MemoryUse::communication:
      return "communication";
  }
  MTP_ASSERT(false);
  return {};
}

}  // namespace mtp
