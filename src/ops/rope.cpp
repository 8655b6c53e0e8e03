#include "mtp/ops/rope.h"

#include "back_ends.h"

MTP_BACK_ENDS(rope_forward)
MTP_BACK_ENDS(rope_backward)
MTP_BACK_ENDS(rope_2d_forward)
MTP_BACK_ENDS(rope_2d_backward)

namespace mtp::ops {

namespace {

void check(const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y) {
  MTP_ASSERT(x.size(0) == sequences.rows() && y.elements() == x.elements());
  MTP_ASSERT(x.size(2) == 2 * std::ssize(rope.inverse_frequencies));
}

void check_2d(const Rope& rope, const Tensor& positions, const Tensor& x, const Tensor& y) {
  MTP_ASSERT(positions.dtype() == DType::i64 && positions.elements() == 2 * x.size(0));
  MTP_ASSERT(x.size(2) == 4 * std::ssize(rope.inverse_frequencies) && y.elements() == x.elements());
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

void rope_2d_forward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& x, const Tensor& y) {
  check_2d(rope, positions, x, y);
  MTP_RUN(rope_2d_forward, rope, positions, x, y);
}

void rope_2d_backward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& dy, const Tensor& dx) {
  check_2d(rope, positions, dy, dx);
  MTP_RUN(rope_2d_backward, rope, positions, dy, dx);
}

}  // namespace mtp::ops
