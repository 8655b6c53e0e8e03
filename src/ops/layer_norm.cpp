#include "mtp/ops/layer_norm.h"

#include "back_ends.h"

MTP_BACK_ENDS(layer_norm_forward)
MTP_BACK_ENDS(layer_norm_backward)
MTP_BACK_ENDS(add_bias)
MTP_BACK_ENDS(add_bias_backward)

namespace mtp::ops {

namespace {

void check(const Tensor& x, const Tensor& weight, const Tensor& y, const Tensor& statistics) {
  MTP_ASSERT(y.elements() == x.elements() && weight.elements() == x.size(-1));
  MTP_ASSERT(statistics.elements() * x.size(-1) == 2 * x.elements());
}

}  // namespace

void layer_norm_forward(Device& device, const LayerNorm& norm, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& y, const Tensor& statistics) {
  check(x, weight, y, statistics);
  MTP_ASSERT(bias.empty() || bias.elements() == x.size(-1));
  MTP_RUN(layer_norm_forward, norm, x, weight, bias, y, statistics);
}

void layer_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight,
                         const Tensor& statistics, const Tensor& dx, const Tensor& dweight) {
  check(x, weight, dx, statistics);
  MTP_ASSERT(dy.elements() == x.elements() && (dweight.empty() || dweight.elements() == x.size(-1)));
  MTP_RUN(layer_norm_backward, dy, x, weight, statistics, dx, dweight);
}

void add_bias(Device& device, const Tensor& x, const Tensor& bias, const Tensor& y) {
  MTP_ASSERT(y.elements() == x.elements() && bias.elements() == x.size(-1));
  MTP_RUN(add_bias, x, bias, y);
}

void add_bias_backward(Device& device, const Tensor& dy, const Tensor& dbias) {
  MTP_ASSERT(dbias.elements() == dy.size(-1));
  MTP_RUN(add_bias_backward, dy, dbias);
}

}  // namespace mtp::ops
