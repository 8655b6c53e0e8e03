#include "mtp/ops/norm.h"

#include "back_ends.h"

MTP_BACK_ENDS(rms_norm_forward)
MTP_BACK_ENDS(add_rms_norm_forward)
MTP_BACK_ENDS(rms_norm_backward)

namespace mtp::ops {

namespace {

void check(const Tensor& x, const Tensor& weight, const Tensor& y, const Tensor& rrms) {
  MTP_ASSERT(y.elements() == x.elements() && rrms.elements() * x.size(-1) == x.elements());
  MTP_ASSERT(weight.empty() || weight.elements() == x.size(-1));
}

}  // namespace

void rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& x, const Tensor& weight, const Tensor& y,
                      const Tensor& rrms) {
  check(x, weight, y, rrms);
  MTP_RUN(rms_norm_forward, norm, x, weight, y, rrms);
}

void add_rms_norm_forward(Device& device, const RmsNorm& norm, const Tensor& residual, const Tensor& x,
                          const Tensor& weight, const Tensor& y, const Tensor& rrms) {
  check(x, weight, y, rrms);
  MTP_ASSERT(residual.elements() == x.elements() && !weight.empty());
  MTP_RUN(add_rms_norm_forward, norm, residual, x, weight, y, rrms);
}

void rms_norm_backward(Device& device, const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rrms,
                       const Tensor& dx, const Tensor& dweight) {
  check(x, weight, dx, rrms);
  MTP_ASSERT(dy.elements() == x.elements() && (dweight.empty() || dweight.elements() == x.size(-1)));
  MTP_RUN(rms_norm_backward, dy, x, weight, rrms, dx, dweight);
}

}  // namespace mtp::ops
