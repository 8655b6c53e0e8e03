#include "mtp/ops/rope.h"

#include "back_ends.h"

MTP_BACK_ENDS(rope_forward)
MTP_BACK_ENDS(rope_backward)

namespace mtp::ops {

namespace {

void check(const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y) {
  MTP_ASSERT(x.size(0) == sequences.rows() && y.elements() == x.elements());
  MTP_ASSERT(x.size(2) == 2 * std::ssize(rope.inverse_frequencies));
}

}  // namespace

void rope_forward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y) {
  check(rope, sequences, x, y);
  MTP_RUN(rope_forward, rope, sequences, x, y);
}

void rope_backward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& dy, const Tensor& dx) {
  check(rope, sequences, dy, dx);
  MTP_RUN(rope_backward, rope, sequences, dy, dx);
}

}  // namespace mtp::ops
