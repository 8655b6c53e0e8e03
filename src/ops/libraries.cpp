#include "mtp/ops/libraries.h"

#include "back_ends.h"

MTP_BACK_ENDS(product_library)

namespace mtp::ops {

std::string product_library(const Device& device) { return MTP_BACK_END(product_library)(device); }

}  // namespace mtp::ops
