#include "mtp/ops/conformer.h"

#include "back_ends.h"

MTP_BACK_ENDS(activation_forward)
MTP_BACK_ENDS(activation_backward)
MTP_BACK_ENDS(gated_sigmoid_forward)
MTP_BACK_ENDS(gated_sigmoid_backward)
MTP_BACK_ENDS(neighbours_forward)
MTP_BACK_ENDS(neighbours_backward)
MTP_BACK_ENDS(causal_convolution_forward)
MTP_BACK_ENDS(causal_convolution_backward_input)
MTP_BACK_ENDS(causal_convolution_backward_weight)
MTP_BACK_ENDS(scale_by_softplus_forward)
MTP_BACK_ENDS(scale_by_softplus_backward)
MTP_BACK_ENDS(local_attention_forward)
MTP_BACK_ENDS(local_attention_backward)

namespace mtp::ops {

namespace {

void check_halves(const Tensor& whole, const Tensor& half) {
  MTP_ASSERT(whole.size(0) == half.size(0) && whole.size(1) == 2 * half.size(1));
}

void check_neighbours(const SoundGrid& in, const SoundGrid& out, const Tensor& x, const Tensor& y) {
  MTP_ASSERT(out.frequencies == (in.frequencies + 1) / 2 && out.clips.count() == in.clips.count());
  for (std::int64_t b = 0; b < in.clips.count(); ++b) MTP_ASSERT(out.clips.length(b) == (in.clips.length(b) + 1) / 2);
  MTP_ASSERT(x.size(0) == in.rows() && y.size(0) == out.rows() && y.size(1) == 9 * x.size(1));
}

void check_convolution(const Sequences& clips, const Tensor& x, const Tensor& w, const Tensor& y) {
  MTP_ASSERT(x.size(0) == clips.rows() && x.elements() == y.elements() && w.size(0) == x.size(1));
}

void check_softplus(const Tensor& x, const Tensor& s, const Tensor& y) {
  MTP_ASSERT(x.dtype() == DType::f32 && y.elements() == x.elements() && s.elements() == x.size(-1));
}

void check_attention(const LocalAttention& attention, const Sequences& clips, const LocalAttentionInputs& in,
                     const Tensor& out, const Tensor& scores) {
  MTP_ASSERT(attention.span > 0 && attention.cap > 0 && in.q.size(0) == clips.rows());
  MTP_ASSERT(in.r.size(0) == attention.span && in.r.elements() * clips.rows() == in.q.elements() * attention.span);
  for (const Tensor* tensor : {&in.k, &in.v, &out}) MTP_ASSERT(tensor->elements() == in.q.elements());
  for (const Tensor* tensor : {&in.q, &in.k, &in.v, &in.r, &out}) MTP_ASSERT(tensor->dtype() == DType::f32);
  MTP_ASSERT(scores.elements() == clips.rows() * in.q.size(1) * attention.span);
}

/// Of one product, a number for each row, head and place that it sees.
double product_flops_of(const LocalAttention& attention, const LocalAttentionInputs& in) {
  return 2.0 * static_cast<double>(in.q.elements() * attention.span);
}

}  // namespace

void activation_forward(Device& device, Activation activation, const Tensor& x, const Tensor& y) {
  MTP_ASSERT(x.elements() == y.elements());
  MTP_RUN(activation_forward, activation, x, y);
}

void activation_backward(Device& device, Activation activation, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  MTP_ASSERT(x.elements() == dy.elements() && x.elements() == dx.elements());
  MTP_RUN(activation_backward, activation, dy, x, dx);
}

void gated_sigmoid_forward(Device& device, const Tensor& x, const Tensor& y) {
  check_halves(x, y);
  MTP_RUN(gated_sigmoid_forward, x, y);
}

void gated_sigmoid_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& dx) {
  check_halves(x, dy);
  check_halves(dx, dy);
  MTP_RUN(gated_sigmoid_backward, dy, x, dx);
}

void neighbours_forward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& x, const Tensor& y) {
  check_neighbours(in, out, x, y);
  MTP_RUN(neighbours_forward, in, out, x, y);
}

void neighbours_backward(Device& device, const SoundGrid& in, const SoundGrid& out, const Tensor& dy,
                         const Tensor& dx) {
  check_neighbours(in, out, dx, dy);
  MTP_RUN(neighbours_backward, in, out, dy, dx);
}

void causal_convolution_forward(Device& device, const Sequences& clips, const Tensor& x, const Tensor& w,
                                const Tensor& y) {
  check_convolution(clips, x, w, y);
  MTP_RUN(causal_convolution_forward, clips, x, w, y);
}

void causal_convolution_backward_input(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& w,
                                       const Tensor& dx) {
  check_convolution(clips, dx, w, dy);
  MTP_RUN(causal_convolution_backward_input, clips, dy, w, dx);
}

void causal_convolution_backward_weight(Device& device, const Sequences& clips, const Tensor& dy, const Tensor& x,
                                        const Tensor& dw) {
  check_convolution(clips, x, dw, dy);
  MTP_ASSERT(dw.dtype() == DType::f32);
  MTP_RUN(causal_convolution_backward_weight, clips, dy, x, dw);
}

void scale_by_softplus_forward(Device& device, float factor, const Tensor& x, const Tensor& s, const Tensor& y) {
  check_softplus(x, s, y);
  MTP_RUN(scale_by_softplus_forward, factor, x, s, y);
}

void scale_by_softplus_backward(Device& device, float factor, const Tensor& dy, const Tensor& x, const Tensor& s,
                                const Tensor& dx, const Tensor& ds) {
  check_softplus(x, s, dx);
  MTP_ASSERT(dy.elements() == x.elements() && (ds.empty() || ds.elements() == s.elements()));
  MTP_RUN(scale_by_softplus_backward, factor, dy, x, s, dx, ds);
}

void local_attention_forward(Device& device, const LocalAttention& attention, const Sequences& clips,
                             const LocalAttentionInputs& in, const Tensor& out, const Tensor& scores) {
  check_attention(attention, clips, in, out, scores);
  MTP_FLOPS(3 * product_flops_of(attention, in));
  MTP_RUN(local_attention_forward, attention, clips, in, out, scores);
}

void local_attention_backward(Device& device, const LocalAttention& attention, const Sequences& clips,
                              const Tensor& dout, const LocalAttentionInputs& in, const Tensor& scores,
                              const LocalAttentionInputs& gradients) {
  check_attention(attention, clips, in, dout, scores);
  check_attention(attention, clips, gradients, dout, scores);
  MTP_FLOPS(6 * product_flops_of(attention, in));
  MTP_RUN(local_attention_backward, attention, clips, dout, in, scores, gradients);
}

}  // namespace mtp::ops
