#include "mtp/ops/elementwise.h"

#include <initializer_list>

#include "back_ends.h"

MTP_BACK_ENDS(convert)
MTP_BACK_ENDS(add)
MTP_BACK_ENDS(add_scaled)
MTP_BACK_ENDS(scale)
MTP_BACK_ENDS(clamp_forward)
MTP_BACK_ENDS(clamp_backward)
MTP_BACK_ENDS(accumulate)
MTP_BACK_ENDS(concat_columns)
MTP_BACK_ENDS(split_columns)
MTP_BACK_ENDS(copy_columns)
MTP_BACK_ENDS(add_columns)
MTP_BACK_ENDS(gated_gelu_forward)
MTP_BACK_ENDS(gated_gelu_backward)

namespace mtp::ops {

namespace {

/// Tensors with as many elements as `x`; those that are empty are left out.
void check(const Tensor& x, std::initializer_list<const Tensor*> others) {
  for (const Tensor* other : others) MTP_ASSERT(other->empty() || other->elements() == x.elements());
}

/// `part` is columns begin … of `whole`.
void check_columns(const Tensor& whole, std::int64_t begin, const Tensor& part) {
  MTP_ASSERT(part.size(0) == whole.size(0) && begin >= 0 && begin + part.size(1) <= whole.size(1));
}

}  // namespace

void convert(Device& device, const Tensor& x, const Tensor& y) {
  check(x, {&y});
  MTP_RUN(convert, x, y);
}

void add(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  check(y, {&a, &b});
  MTP_RUN(add, a, b, y);
}

void add_scaled(Device& device, const Tensor& a, const Tensor& b, float factor, const Tensor& y) {
  check(y, {&a, &b});
  MTP_RUN(add_scaled, a, b, factor, y);
}

void scale(Device& device, const Tensor& x, float factor, const Tensor& y) {
  check(x, {&y});
  MTP_RUN(scale, x, factor, y);
}

void clamp_forward(Device& device, const Bounds& bounds, const Tensor& x, const Tensor& y) {
  check(x, {&y});
  MTP_RUN(clamp_forward, bounds, x, y);
}

void clamp_backward(Device& device, const Bounds& bounds, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  check(x, {&dy, &dx});
  MTP_RUN(clamp_backward, bounds, dy, x, dx);
}

void accumulate(Device& device, const Tensor& x, const Tensor& y) {
  check(x, {&y});
  MTP_RUN(accumulate, x, y);
}

void concat_columns(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  check_columns(y, 0, a);
  check_columns(y, a.size(1), b);
  MTP_ASSERT(a.size(1) + b.size(1) == y.size(1));
  MTP_RUN(concat_columns, a, b, y);
}

void split_columns(Device& device, const Tensor& dy, const Tensor& da, const Tensor& db) {
  if (!da.empty()) check_columns(dy, 0, da);
  if (!db.empty()) check_columns(dy, dy.size(1) - db.size(1), db);
  MTP_RUN(split_columns, dy, da, db);
}

void copy_columns(Device& device, const Tensor& x, std::int64_t begin, const Tensor& y) {
  check_columns(x, begin, y);
  MTP_RUN(copy_columns, x, begin, y);
}

void add_columns(Device& device, const Tensor& dy, std::int64_t begin, const Tensor& dx) {
  check_columns(dx, begin, dy);
  MTP_RUN(add_columns, dy, begin, dx);
}

void gated_gelu_forward(Device& device, const Tensor& gate, const Tensor& up, const Tensor& y) {
  check(y, {&gate, &up});
  MTP_RUN(gated_gelu_forward, gate, up, y);
}

void gated_gelu_backward(Device& device, const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                         const Tensor& dup) {
  check(dy, {&gate, &up, &dgate, &dup});
  MTP_RUN(gated_gelu_backward, dy, gate, up, dgate, dup);
}

}  // namespace mtp::ops
