// The operations of include/mtp/ops on whatever device they are called for.

#include "mtp/ops/attention.h"
#include "mtp/ops/choice.h"
#include "mtp/ops/cross_entropy.h"
#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/libraries.h"
#include "mtp/ops/matmul.h"
#include "mtp/ops/norm.h"
#include "mtp/ops/optimizer.h"
#include "mtp/ops/rope.h"
#include "mtp/ops/rowwise.h"
#include "mtp/tensor/profile.h"

// Declares every operation in the namespace of a back end with the type that its header gives it: a back end that lacks
// one, or has one of another type, does not link.
#define MTP_BACK_END(name)                                        \
  namespace mtp::ops::name {                                      \
  decltype(ops::attention_forward) attention_forward;             \
  decltype(ops::attention_backward) attention_backward;           \
  decltype(ops::projected_choice) projected_choice;               \
  decltype(ops::masked_choice) masked_choice;                     \
  decltype(ops::projected_cross_entropy) projected_cross_entropy; \
  decltype(ops::projected_distillation) projected_distillation;   \
  decltype(ops::masked_cross_entropy) masked_cross_entropy;       \
  decltype(ops::masked_distillation) masked_distillation;         \
  decltype(ops::convert) convert;                                 \
  decltype(ops::add) add;                                         \
  decltype(ops::add_scaled) add_scaled;                           \
  decltype(ops::scale) scale;                                     \
  decltype(ops::accumulate) accumulate;                           \
  decltype(ops::concat_columns) concat_columns;                   \
  decltype(ops::split_columns) split_columns;                     \
  decltype(ops::copy_columns) copy_columns;                       \
  decltype(ops::add_columns) add_columns;                         \
  decltype(ops::gated_gelu_forward) gated_gelu_forward;           \
  decltype(ops::gated_gelu_backward) gated_gelu_backward;         \
  decltype(ops::lookup_forward) lookup_forward;                   \
  decltype(ops::lookup_backward) lookup_backward;                 \
  decltype(ops::shift_rows_forward) shift_rows_forward;           \
  decltype(ops::shift_rows_backward) shift_rows_backward;         \
  decltype(ops::linear_forward) linear_forward;                   \
  decltype(ops::linear_backward_input) linear_backward_input;     \
  decltype(ops::linear_backward_weight) linear_backward_weight;   \
  decltype(ops::rms_norm_forward) rms_norm_forward;               \
  decltype(ops::add_rms_norm_forward) add_rms_norm_forward;       \
  decltype(ops::rms_norm_backward) rms_norm_backward;             \
  decltype(ops::adamw) adamw;                                     \
  decltype(ops::sum_of_squares) sum_of_squares;                   \
  decltype(ops::rope_forward) rope_forward;                       \
  decltype(ops::rope_backward) rope_backward;                     \
  decltype(ops::rowwise_linear) rowwise_linear;                   \
  decltype(ops::rowwise_gated_linear) rowwise_gated_linear;       \
  decltype(ops::rowwise_gate) rowwise_gate;                       \
  decltype(ops::rowwise_choice) rowwise_choice;                   \
  decltype(ops::rowwise_masked_choice) rowwise_masked_choice;     \
  decltype(ops::rowwise_heads) rowwise_heads;                     \
  decltype(ops::put_in_ring) put_in_ring;                         \
  decltype(ops::rowwise_attention) rowwise_attention;             \
  decltype(ops::product_library) product_library;                 \
  }

MTP_BACK_END(cpu)
#ifdef MTP_WITH_CUDA
MTP_BACK_END(cuda)
#endif
#undef MTP_BACK_END

#ifdef MTP_WITH_CUDA
#define MTP_ON(device, operation) (device.kind() == Device::Kind::cuda ? cuda::operation : cpu::operation)
#else
#define MTP_ON(device, operation) cpu::operation
#endif
#define MTP_FORWARD(operation, ...) \
  device.profile().measure(#operation, [&] { MTP_ON(device, operation)(device, __VA_ARGS__); })

namespace mtp::ops {

void attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  MTP_FORWARD(attention_forward, mask, sequences, q, k, v, out, lse);
}

void attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  MTP_FORWARD(attention_backward, mask, sequences, dout, q, k, v, out, lse, dq, dk, dv);
}

void projected_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices) {
  MTP_FORWARD(projected_choice, x, w, labels, choices);
}

void masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& labels,
                   const Tensor& choices) {
  MTP_FORWARD(masked_choice, head, x, w, labels, choices);
}

void projected_cross_entropy(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                             const Tensor& labels, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  MTP_FORWARD(projected_cross_entropy, ce, x, w, labels, loss, dx, dw);
}

void projected_distillation(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                            const Teacher& teacher, const Tensor& teacher_rows, const Tensor& loss, const Tensor& dx,
                            const Tensor& dw) {
  MTP_FORWARD(projected_distillation, ce, x, w, teacher, teacher_rows, loss, dx, dw);
}

void masked_cross_entropy(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                          const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& loss, const Tensor& dx,
                          const Tensor& dw) {
  MTP_FORWARD(masked_cross_entropy, ce, head, sequences, x, w, labels, loss, dx, dw);
}

void masked_distillation(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                         const Tensor& x, const Tensor& w, const Teacher& teacher, const Tensor& teacher_rows,
                         const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  MTP_FORWARD(masked_distillation, ce, head, sequences, x, w, teacher, teacher_rows, loss, dx, dw);
}

void convert(Device& device, const Tensor& x, const Tensor& y) { MTP_FORWARD(convert, x, y); }

void add(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) { MTP_FORWARD(add, a, b, y); }

void add_scaled(Device& device, const Tensor& a, const Tensor& b, float factor, const Tensor& y) {
  MTP_FORWARD(add_scaled, a, b, factor, y);
}

void scale(Device& device, const Tensor& x, float factor, const Tensor& y) { MTP_FORWARD(scale, x, factor, y); }

void accumulate(Device& device, const Tensor& x, const Tensor& y) { MTP_FORWARD(accumulate, x, y); }

void concat_columns(Device& device, const Tensor& a, const Tensor& b, const Tensor& y) {
  MTP_FORWARD(concat_columns, a, b, y);
}

void split_columns(Device& device, const Tensor& dy, const Tensor& da, const Tensor& db) {
  MTP_FORWARD(split_columns, dy, da, db);
}

void copy_columns(Device& device, const Tensor& x, std::int64_t begin, const Tensor& y) {
  MTP_FORWARD(copy_columns, x, begin, y);
}

void add_columns(Device& device, const Tensor& dy, std::int64_t begin, const Tensor& dx) {
  MTP_FORWARD(add_columns, dy, begin, dx);
}

void gated_gelu_forward(Device& device, const Tensor& gate, const Tensor& up, const Tensor& y) {
  MTP_FORWARD(gated_gelu_forward, gate, up, y);
}

void gated_gelu_backward(Device& device, const Tensor& dy, const Tensor& gate, const Tensor& up, const Tensor& dgate,
                         const Tensor& dup) {
  MTP_FORWARD(gated_gelu_backward, dy, gate, up, dgate, dup);
}

void lookup_forward(Device& device, const Tensor& table, const Tensor& ids, float factor, const Tensor& y) {
  MTP_FORWARD(lookup_forward, table, ids, factor, y);
}

void lookup_backward(Device& device, const Tensor& dy, const Tensor& ids, float factor, std::int64_t skip,
                     const Tensor& dtable) {
  MTP_FORWARD(lookup_backward, dy, ids, factor, skip, dtable);
}

void shift_rows_forward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x,
                        const Tensor& fill, const Tensor& y) {
  MTP_FORWARD(shift_rows_forward, sequences, by, x, fill, y);
}

void shift_rows_backward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& dy,
                         const Tensor& dx) {
  MTP_FORWARD(shift_rows_backward, sequences, by, dy, dx);
}

void linear_forward(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  MTP_FORWARD(linear_forward, x, w, y);
}

void linear_backward_input(Device& device, const Tensor& dy, const Tensor& w, const Tensor& dx) {
  MTP_FORWARD(linear_backward_input, dy, w, dx);
}

void linear_backward_weight(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dw) {
  MTP_FORWARD(linear_backward_weight, dy, x, dw);
}

void rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& x, const Tensor& weight, const Tensor& y,
                      const Tensor& rrms) {
  MTP_FORWARD(rms_norm_forward, norm, x, weight, y, rrms);
}

void add_rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& residual, const Tensor& x,
                          const Tensor& weight, const Tensor& y, const Tensor& rrms) {
  MTP_FORWARD(add_rms_norm_forward, norm, residual, x, weight, y, rrms);
}

void rms_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms,
                       const Tensor& dx, const Tensor& dweight) {
  MTP_FORWARD(rms_norm_backward, dy, x, weight, rrms, dx, dweight);
}

void adamw(Device& device, const AdamW& adamw, std::span<const AdamWShard> shards) {
  MTP_FORWARD(adamw, adamw, shards);
}

void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums) {
  MTP_FORWARD(sum_of_squares, gradient, block, sums);
}

void rope_forward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y) {
  MTP_FORWARD(rope_forward, rope, sequences, x, y);
}

void rope_backward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& dy, const Tensor& dx) {
  MTP_FORWARD(rope_backward, rope, sequences, dy, dx);
}

void rowwise_linear(Device& device, const RowwiseInput& x, const std::vector<Tensor>& w, const std::vector<Tensor>& y) {
  MTP_FORWARD(rowwise_linear, x, w, y);
}

void rowwise_gated_linear(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& up,
                          const Tensor& y) {
  MTP_FORWARD(rowwise_gated_linear, x, gate, up, y);
}

void rowwise_gate(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& factors, const Tensor& y) {
  MTP_FORWARD(rowwise_gate, x, gate, factors, y);
}

void rowwise_choice(Device& device, const Tensor& x, const Tensor& w, std::int64_t none, const Tensor& choices) {
  MTP_FORWARD(rowwise_choice, x, w, none, choices);
}

void rowwise_masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w,
                           const Tensor& choices) {
  MTP_FORWARD(rowwise_masked_choice, head, x, w, choices);
}

void rowwise_heads(Device& device, const RmsNorm& norm, const Rope& rope, const Tensor& first,
                   const std::vector<Heads>& heads) {
  MTP_FORWARD(rowwise_heads, norm, rope, first, heads);
}

void put_in_ring(Device& device, const Tensor& first, const Tensor& rows, const Tensor& ring) {
  MTP_FORWARD(put_in_ring, first, rows, ring);
}

void rowwise_attention(Device& device, const AttentionMask& mask, const Tensor& first, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& out) {
  MTP_FORWARD(rowwise_attention, mask, first, q, k, v, out);
}

std::string product_library(const Device& device) { return MTP_ON(device, product_library)(device); }

}  // namespace mtp::ops
