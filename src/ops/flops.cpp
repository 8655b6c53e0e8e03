#include "mtp/ops/flops.h"

namespace mtp::ops {

double product_flops(std::int64_t rows, std::int64_t in, std::int64_t out) {
  return 2 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
}

double visible_pairs(const AttentionMask& mask, std::int64_t length) {
  double pairs = 0;
  for (std::int64_t t = 0; t < length; ++t) pairs += static_cast<double>(mask.end(t, length) - mask.begin(t, length));
  return pairs;
}

}  // namespace mtp::ops
